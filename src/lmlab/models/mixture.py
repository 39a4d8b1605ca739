"""Mixtures: a model around models, whose state is the tuple of its parts' states.

    linear        p(w) = sum_i weight_i p_i(w)              the parts vote; fit the weights with `fit_weights`
    log-linear    p(w) ~ prod_i p_i(w) ** weight_i          every part may veto; renormalised over the vocabulary

    model = mix(Mixture.Settings("linear", (0.5, 0.5)), [ngram, lstm])

`mix` gives a `LinearMixture` where the form is linear: known tokens are then scored part by part, while log-linear has
to renormalise over whole rows. It is a `ParallelMixture` where all parts score in parallel.

Shapes: P parts, B contexts, T positions, V words, N tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lmlab import config
from lmlab.config import setting
from lmlab.errors import ArtifactError, DataError, SettingError, UsageError
from lmlab.models.base import LanguageModel, ParallelScorer, State, Storable, is_unnormalised
from lmlab.registry import names, resolve


@dataclass(frozen=True)
class MixtureState:
    """What each part remembers."""

    parts: tuple[State, ...]

    def select(self, rows_K: Tensor) -> MixtureState:
        """The state of these rows, part by part."""
        return MixtureState(tuple(part.select(rows_K) for part in self.parts))


@runtime_checkable
class _Sized(Protocol):
    """A part that says what its numbers take."""

    nbytes: int


class _AnyMixture:
    """What both mixtures share.

    Args:
        settings: the form and the weights.
        parts: models of one vocabulary.

    Raises:
        SettingError: no parts, not as many weights as parts, or parts of different vocabularies.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """How the parts are mixed."""

        form: str = setting("linear", "weighted sum, or renormalised product", choices=("linear", "log-linear"))
        weights: tuple[float, ...] = setting((), "one weight a part, in order; none for equal shares")

        def __post_init__(self) -> None:
            super().__post_init__()
            if not all(weight >= 0 and math.isfinite(weight) for weight in self.weights):
                raise SettingError("weights", self.weights, "finite numbers >= 0", "leave a part out to ignore it")
            if self.weights and self.form == "linear" and abs(sum(self.weights) - 1) > 1e-6:
                raise SettingError("weights", self.weights, "numbers that sum to 1", "divide each by their sum")
            if self.weights and not any(self.weights):
                raise SettingError("weights", self.weights, "numbers of which one is > 0", "weigh some part")

    family: ClassVar[str] = "composed"

    def __init__(self, settings: _AnyMixture.Settings, parts: Sequence[LanguageModel]) -> None:
        weights = settings.weights or (1 / max(len(parts), 1),) * len(parts)
        sizes = sorted({part.vocab_size for part in parts})
        if not parts or len(weights) != len(parts):
            raise SettingError("weights", weights, f"{len(parts)} numbers", "give one weight for each part, and a part")
        if len(sizes) > 1:
            raise SettingError("parts", sizes, "models of one vocabulary size", "train the parts with one tokenizer")
        self.settings = settings
        self.parts = tuple(parts)
        self.weights = weights
        self.vocab_size, self.bos, self.eos = parts[0].vocab_size, parts[0].bos, parts[0].eos
        unsound = any(is_unnormalised(part) for part in parts)
        self.unnormalised = unsound and settings.form == "linear"

    @property
    def nbytes(self) -> int:
        """What the numbers of the parts take, in bytes."""
        return sum(part.nbytes for part in self.parts if isinstance(part, _Sized))

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, MixtureState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        return self._mixed([part.start(prompts) for part in self.parts])

    def step(self, state: MixtureState, tokens_B: Tensor) -> tuple[Tensor, MixtureState]:
        """logp_BV one token further, and the new state."""
        return self._mixed([part.step(known, tokens_B) for part, known in zip(self.parts, state.parts, strict=True)])

    def _mixed(self, answers: Sequence[tuple[Tensor, State]]) -> tuple[Tensor, MixtureState]:
        combine = _linear if self.settings.form == "linear" else _log_linear
        logp_BV = combine([logp_BV for logp_BV, _ in answers], self.weights)
        return logp_BV, MixtureState(tuple(state for _, state in answers))

    def save(self, folder: Path) -> None:
        """Write each part into its own subfolder, and `parts.json` saying what it is.

        Raises:
            UsageError: a part cannot be kept, or is not in the registry.
        """
        listed = []
        for number, part in enumerate(self.parts):
            kind = _registered_name(part)
            if not isinstance(part, Storable):
                raise UsageError(f"a {kind} cannot be kept on disk", "mix models that can")
            subfolder = folder / f"part{number}"
            subfolder.mkdir()
            part.save(subfolder)
            listed.append({"kind": kind, "settings": part.settings.dump()})
        (folder / "parts.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, settings: _AnyMixture.Settings, vocab_size: int) -> Mixture | LinearMixture:
        """Build the mixture again from what `save` wrote.

        Raises:
            ArtifactError: `parts.json` or a part is missing, damaged, or does not fit the settings.
        """
        try:
            listed = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
            if not isinstance(listed, list):
                raise ArtifactError(f"{folder / 'parts.json'} is no list", "build the mixture again from its parts")
            parts = [_load_part(folder / f"part{i}", about, vocab_size) for i, about in enumerate(listed)]
            return mix(settings, parts)
        except (OSError, ValueError, UsageError) as error:
            raise ArtifactError(f"{folder} is no sound mixture: {error}", "build it again from its parts") from error


@final
class Mixture(_AnyMixture):
    """A mixture that steps."""


class LinearMixture(_AnyMixture):
    """A linear mixture: known tokens are scored part by part, each by the part's fastest power. `mix` makes it."""

    def blend(self, documents: Iterable[np.ndarray], logp: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Blend.blend`."""
        heard_P = np.array(self.weights) > 0
        log_weights_P1 = np.log(np.array(self.weights)[heard_P])[:, None]
        for logp_PN in logp:
            yield np.logaddexp.reduce(logp_PN[heard_P] + log_weights_P1)


@final
class ParallelMixture(LinearMixture):
    """A linear mixture of parallel scorers, itself one. `mix` makes it, where that holds."""

    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and the tokens before it; 0 where the mask is False."""
        parts = [part.logp(ids_BT, mask_BT) for part in self.parts if isinstance(part, ParallelScorer)]
        return _linear(parts, self.weights).masked_fill(~mask_BT, 0.0)


def mix(settings: Mixture.Settings, parts: Sequence[LanguageModel]) -> Mixture | LinearMixture:
    """The mixture of these models, one that scores part by part or in parallel where that is sound.

    Raises:
        SettingError: no parts, not as many weights as parts, or parts of different vocabularies.
    """
    if settings.form != "linear":
        return Mixture(settings, parts)
    parallel = all(isinstance(part, ParallelScorer) for part in parts)
    return (ParallelMixture if parallel else LinearMixture)(settings, parts)


def fit_weights(logp_PN: np.ndarray, iterations: int = 50, given: Sequence[float | None] = ()) -> np.ndarray:
    """The linear weights that fit held-out tokens best, by expectation maximisation (Jelinek and Mercer 1980).

    Args:
        logp_PN: natural log-probability that each part gives each held-out token.
        iterations: rounds; none makes the fit worse.
        given: a weight a part that is to stay as it is, None where it is to be fitted; nothing fits them all.

    Returns:
        weights_P, float64, >= 0 and summing to 1.

    Raises:
        DataError: every token is impossible to every part.

    >>> fit_weights(np.log([[0.5, 0.5, 0.5, 0.5], [0.9, 0.9, 0.9, 0.1]])).round(2).tolist()
    [0.38, 0.62]
    """
    best_N = logp_PN.max(axis=0)
    possible_N = np.isfinite(best_N)
    if not possible_N.any():
        raise DataError("no part gives any held-out token a probability > 0", "smooth a part, or mix in another")
    p_PN = np.exp(logp_PN[:, possible_N].astype(np.float64) - best_N[possible_N])
    given = given or [None] * len(p_PN)
    free_P = np.array([weight is None for weight in given])
    rest = 1 - sum(weight or 0 for weight in given)
    weights_P = np.array([rest / free_P.sum() if weight is None else weight for weight in given])
    for _ in range(iterations if rest > 0 else 0):
        share_PN = weights_P[:, None] * p_PN
        share_P = (share_PN / share_PN.sum(axis=0)).mean(axis=1)
        weights_P[free_P] = rest * share_P[free_P] / share_P[free_P].sum()
    return weights_P


def _linear(logp: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    weighed = [part + math.log(weight) for part, weight in zip(logp, weights, strict=True) if weight > 0]
    return torch.stack(weighed).logsumexp(dim=0)


def _log_linear(logp: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    weighed = [part * weight for part, weight in zip(logp, weights, strict=True) if weight > 0]
    total_BV = torch.stack(weighed).sum(dim=0)
    norm_B1 = total_BV.logsumexp(dim=-1, keepdim=True)
    if torch.isneginf(norm_B1).any():
        raise DataError("the parts allow no next token in common", 'mix with form "linear", or smooth the parts')
    return total_BV - norm_B1


def _load_part(folder: Path, about: object, vocab_size: int) -> LanguageModel:
    match about:
        case {"kind": str(kind), "settings": dict(values)}:
            model = resolve("model", kind)
            return model.load(folder, model.Settings.make(values, folder.name), vocab_size)
        case _:
            raise ArtifactError(f"parts.json does not say what {folder} is", "build the mixture again from its parts")


def _registered_name(part: Any) -> str:
    if isinstance(part, _AnyMixture):
        return "mixture"
    for name in names("model"):
        if resolve("model", name) is type(part):
            return name
    raise UsageError(f"{type(part).__name__} is not a registered model", "add it to the entry points lmlab.models")
