"""Mixtures: a model around models, whose state is the tuple of its components' states.

    linear        p(w) = sum_m weight_m p_m(w)              a weighted mean; fit the weights with `fit_weights`
    log-linear    p(w) ~ prod_m p_m(w) ** weight_m          every component may veto; renormalised over the vocabulary

    model = Mixture(Mixture.Settings("linear", (0.5, 0.5)), [ngram, lstm])

A linear mixture scores known text component by component, each in that model's own way. A log-linear one goes step by
step, since its renormalisation needs whole rows.

Shapes: M components, B contexts, V words, N tokens.
"""

from __future__ import annotations

import abc
import functools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lmlab import config
from lmlab.config import setting
from lmlab.errors import ArtifactError, DataError, SettingError, UsageError
from lmlab.models.base import LanguageModel, Scorer, State
from lmlab.models.scorers import Blend, Stepwise
from lmlab.registry import names, resolve

_LISTED = "components.json"


@dataclass(frozen=True)
class MixtureState:
    """The states of the components."""

    components: tuple[State, ...]

    def select(self, rows_K: Tensor) -> MixtureState:
        """The state of these rows, component by component."""
        return MixtureState(tuple(state.select(rows_K) for state in self.components))

    def joined(self, other: MixtureState) -> MixtureState:
        """The state of these rows, then of the other's, component by component."""
        pairs = zip(self.components, other.components, strict=True)
        return MixtureState(tuple(mine.joined(theirs) for mine, theirs in pairs))


def log_sum(logp_MX: Tensor) -> Tensor:
    """The logarithm of the sum of probabilities over the first axis; several times as fast as torch's `logsumexp`."""
    logp_X: Tensor = functools.reduce(torch.logaddexp, logp_MX)
    return logp_X


class Components(abc.ABC):
    """Models of one vocabulary that read the same text; base of what combines them.

    Raises:
        SettingError: no components, or components of different vocabularies.
    """

    family: ClassVar[str] = "composed"

    def __init__(self, components: Sequence[LanguageModel]) -> None:
        sizes = sorted({component.vocab_size for component in components})
        if len(sizes) != 1:
            raise SettingError("components", sizes, "models of one vocabulary size", "train them with one tokenizer")
        self.components = tuple(components)
        self.vocab_size, self.bos, self.eos = sizes[0], components[0].bos, components[0].eos

    @property
    def nbytes(self) -> int:
        """The size of the components, in bytes, as far as they say it."""
        return sum(getattr(component, "nbytes", 0) for component in self.components)

    @abc.abstractmethod
    def account(self, ids_N: np.ndarray) -> dict[str, np.ndarray]:
        """The `weights` of the components at each token of a document but `<bos>`, weights_NM."""

    def start_each(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, MixtureState]:
        """What each component predicts after `<bos>` and each prompt, logp_MBV, and their states."""
        return _stacked([component.start(prompts) for component in self.components])

    def step_each(self, state: MixtureState, tokens_B: Tensor) -> tuple[Tensor, MixtureState]:
        """What each component predicts one token further, logp_MBV, and their states."""
        pairs = zip(self.components, state.components, strict=True)
        return _stacked([component.step(known, tokens_B) for component, known in pairs])


def _stacked(answers: Sequence[tuple[Tensor, State]]) -> tuple[Tensor, MixtureState]:
    logp, states = zip(*answers, strict=True)
    return torch.stack(logp), MixtureState(states)


class Mixture(Components):
    """A linear or log-linear mixture with constant weights.

    Args:
        settings: the form and the weights.
        components: models of one vocabulary.

    Raises:
        SettingError: no components, not as many weights as components, or components of different vocabularies.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """How the components are mixed."""

        form: str = setting("linear", "weighted sum, or renormalised product", choices=("linear", "log-linear"))
        weights: tuple[float, ...] = setting((), "one weight a component, in order; none for equal shares")

        def __post_init__(self) -> None:
            super().__post_init__()
            if not all(weight >= 0 and math.isfinite(weight) for weight in self.weights):
                raise SettingError("weights", self.weights, "finite numbers >= 0", "leave a component out to ignore it")
            if self.weights and self.form == "linear" and abs(sum(self.weights) - 1) > 1e-6:
                raise SettingError("weights", self.weights, "numbers that sum to 1", "divide each by their sum")
            if self.weights and not any(self.weights):
                raise SettingError("weights", self.weights, "numbers of which one is > 0", "weigh some component")

    def __init__(self, settings: Mixture.Settings, components: Sequence[LanguageModel]) -> None:
        self.settings = settings
        self.weights = settings.weights or (1 / max(len(components), 1),) * len(components)
        if not components or len(self.weights) != len(components):
            bound = f"{len(components)} numbers"
            raise SettingError("weights", self.weights, bound, "give one weight for each component, and a component")
        super().__init__(components)

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, MixtureState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        logp_MBV, state = self.start_each(prompts)
        return self._mixed(logp_MBV), state

    def step(self, state: MixtureState, tokens_B: Tensor) -> tuple[Tensor, MixtureState]:
        """logp_BV one token further, and the new state."""
        logp_MBV, state = self.step_each(state, tokens_B)
        return self._mixed(logp_MBV), state

    def _mixed(self, logp_MBV: Tensor) -> Tensor:
        weights_M = torch.tensor(self.weights, dtype=logp_MBV.dtype)
        logp_MBV, weights_M11 = logp_MBV[weights_M > 0], weights_M[weights_M > 0][:, None, None]
        if self.settings.form == "linear":
            return log_sum(logp_MBV + weights_M11.log())
        total_BV = (logp_MBV * weights_M11).sum(dim=0)
        norm_B1 = total_BV.logsumexp(dim=-1, keepdim=True)
        if torch.isneginf(norm_B1).any():
            raise DataError("the components allow no next token in common", "mix them linearly, or smooth them")
        return total_BV - norm_B1

    def scorer(self) -> Scorer:
        """Scores component by component where the form is linear, else step by step."""
        return Blend(self.components, self.blend, self.blend_rows) if self.settings.form == "linear" else Stepwise(self)

    def blend(self, documents: Iterable[np.ndarray], logp: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The linear mixture of known scores: from pieces of logp_MN to pieces of logp_N."""
        used_M = np.array(self.weights) > 0
        log_weights_M1 = np.log(np.array(self.weights)[used_M])[:, None]
        for logp_MN in logp:
            yield np.logaddexp.reduce(logp_MN[used_M] + log_weights_M1)

    def blend_rows(self, documents: Iterable[np.ndarray], rows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The linear mixture of whole rows: from pieces of rows_MNV to pieces of rows_NV."""
        return (self._mixed(torch.from_numpy(rows_MNV)).numpy() for rows_MNV in rows)

    def account(self, ids_N: np.ndarray) -> dict[str, np.ndarray]:
        """The weights of the components at each token of a document but `<bos>`: everywhere the same."""
        return {"weights": np.tile(self.weights, (len(ids_N) - 1, 1))}

    def save(self, folder: Path) -> None:
        """Write each component into its own subfolder, and a list of what they are.

        Raises:
            UsageError: a component is not in the registry.
        """
        listed = []
        for number, component in enumerate(self.components):
            model: Any = component
            listed.append({"kind": _registered_name(model), "settings": model.settings.dump()})
            subfolder = folder / f"component{number}"
            subfolder.mkdir()
            model.save(subfolder)
        (folder / _LISTED).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, settings: Mixture.Settings, vocab_size: int) -> Self:
        """Build the mixture again from what `save` wrote.

        Raises:
            ArtifactError: the list or a component is missing, damaged, or does not fit the settings.
        """
        try:
            listed = json.loads((folder / _LISTED).read_text(encoding="utf-8"))
            components = [
                _load_component(folder / f"component{number}", about, vocab_size) for number, about in enumerate(listed)
            ]
            return cls(settings, components)
        except (OSError, ValueError, TypeError, UsageError) as error:
            raise ArtifactError(f"{folder} is no sound mixture: {error}", "mix its components again") from error

    def check(self) -> None:
        """Have each component look through its weights; ArtifactError where they are of no sound model."""
        for component in self.components:
            model: Any = component
            model.check()


def _load_component(folder: Path, about: object, vocab_size: int) -> LanguageModel:
    match about:
        case {"kind": str(kind), "settings": dict(values)}:
            model = resolve("model", kind)
            loaded: LanguageModel = model.load(folder, model.Settings.make(values, folder.name), vocab_size)
            return loaded
        case _:
            raise ArtifactError(f"{_LISTED} does not say what {folder} is", "mix its components again")


def _registered_name(model: LanguageModel) -> str:
    name = next((name for name in names("model") if resolve("model", name) is type(model)), None)
    if name is None:
        raise UsageError(f"{type(model).__name__} is not a registered model", "add it to the entry points lmlab.models")
    return name


def fit_weights(logp_MN: np.ndarray, iterations: int = 50, given: Sequence[float | None] = ()) -> np.ndarray:
    """The linear weights that fit held-out tokens best, by expectation maximisation (Jelinek and Mercer 1980).

    Args:
        logp_MN: natural log-probability that each component gives each held-out token.
        iterations: rounds; none makes the fit worse.
        given: for each component a weight that stays, or None to have it fitted; empty fits all.

    Returns:
        weights_M, float64, >= 0 and summing to 1.

    Raises:
        DataError: every token is impossible to every component.

    >>> fit_weights(np.log([[0.5, 0.5, 0.5, 0.5], [0.9, 0.9, 0.9, 0.1]])).round(2).tolist()
    [0.38, 0.62]
    """
    best_N = logp_MN.max(axis=0)
    possible_N = np.isfinite(best_N)
    if not possible_N.any():
        raise DataError("no component gives any held-out token a probability > 0", "smooth one, or mix in another")
    p_MN = np.exp(logp_MN[:, possible_N].astype(np.float64) - best_N[possible_N])
    given = given or [None] * len(p_MN)
    free_M = np.array([weight is None for weight in given])
    rest = 1 - sum(weight or 0 for weight in given)
    weights_M = np.array([rest / free_M.sum() if weight is None else weight for weight in given])
    for _ in range(iterations if rest > 0 else 0):
        share_MN = weights_M[:, None] * p_MN
        share_M = (share_MN / share_MN.sum(axis=0)).mean(axis=1)
        weights_M[free_M] = rest * share_M[free_M] / share_M[free_M].sum()
    return weights_M
