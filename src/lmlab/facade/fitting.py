"""Fits values of a composition on a run's own held-out text, each once: the search, and the folder of its results.

Shapes: N ids of a document.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from lmlab import disk
from lmlab.disk import cache_dir
from lmlab.models.scorers import documents
from lmlab.progress import Reporter
from lmlab.run_config import RunConfig
from lmlab.tokens import Tokenizer
from lmlab.tokens.id_store import TokenStore

Found = dict[str, Tensor]
_VERSION = 3  # of what is kept: changes when it is fitted otherwise
_LARGEST = {"lr": 1.0, "decay": 0.5}  # that the search tries
_TRIALS = 9
_TRIAL_TOKENS = 20_000  # for a model of up to a million weights or so; a larger one reads fewer
_LEAST_TOKENS = 2_000
_WORK = 24e9  # weights times tokens of a trial
_MEASURED_CHARS = 10 * _TRIAL_TOKENS  # of training text, where gradients are measured on that


class Run(Protocol):
    """What composing and fitting need of a run; a `TextModel` has it."""

    model: Any
    tokenizer: Tokenizer
    config: RunConfig
    manifest: dict[str, Any]
    folder: Path | None
    composition: dict[str, Any]

    def held_out(self, split: str, reporter: Reporter | None = None, chars: float = math.inf) -> TokenStore | None:
        """An encoded split of its own text, or about so many characters of it; None where nothing keeps it."""
        ...

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model directory."""
        ...


class Fitting:
    """The held-out text of a run, and what is fitted on it.

    Args:
        lm: the run.
        reporter: receives progress.
    """

    def __init__(self, lm: Run, reporter: Reporter) -> None:
        self.lm, self.reporter = lm, reporter

    @cached_property
    def text(self) -> TokenStore | None:
        """The validation split; None where nothing keeps it."""
        return self.lm.held_out("valid", self.reporter)

    @property
    def trial_tokens(self) -> int:
        """How many tokens a trial of the run's own model reads; one that has no parameters is as quick as any."""
        parameters: int = getattr(self.lm.model, "parameter_count", 1)
        return max(_LEAST_TOKENS, min(_TRIAL_TOKENS, int(_WORK / parameters)))

    def trial(self) -> list[np.ndarray]:
        """The documents of a trial: the beginning of the validation split, else of the training split, else none."""
        text = self.text or self.lm.held_out("train", self.reporter, chars=_MEASURED_CHARS)
        return [] if text is None else list(documents(head(self.trial_tokens, text).ids))

    def search(self, title: str, start: Mapping[str, float], cost: Callable[[Mapping[str, float]], float]) -> Found:
        """Double each value, or else halve it, as long as that lowers the cost.

        Args:
            title: what the values belong to.
            start: the values to begin with, by name.
            cost: nats per token with such values; infinite where they are unusable.

        Returns:
            The best values found.
        """
        best, least, done = dict(start), cost(start), 1
        with self.reporter.stage(f"choosing {', '.join(start)} of {title}", _TRIALS, " trials") as advance:
            for name, factor in ((name, factor) for name in start for factor in (2.0, 0.5)):
                while done < _TRIALS and best[name] * factor <= _LARGEST[name]:
                    tried = best | {name: best[name] * factor}
                    nats, done = cost(tried), done + 1
                    advance(done)
                    if not nats < least:
                        break
                    best, least = tried, nats
        values = ", ".join(f"{name} {value:g}" for name, value in best.items())
        self.reporter.say(f"{title}: {values} ({least:.4f} nats/token on the beginning of the validation split)")
        return tensors(best)

    def once(self, key: Sequence[Any], fit: Callable[[], Found]) -> Found:
        """What `fit` returns, or returned when it was last called for this run and this key."""
        whole = json.dumps([_VERSION, identity(self.lm), *key], sort_keys=True)
        folder, key = cache_dir() / "adaptation", hashlib.sha256(whole.encode()).hexdigest()[:24]
        for path in folder.glob(f"{key}.*.safetensors"):
            content = path.read_bytes()
            if path.name == f"{key}.{_sum(content)}.safetensors":
                return load(content)
            self.reporter.say(f"{path} is damaged; fitting again")
            path.unlink()
        found = fit()
        content = save(found)
        with disk.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        disk.write_file(folder / f"{key}.{_sum(content)}.safetensors", content)
        return found


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def tensors(values: Mapping[str, float]) -> Found:
    """Numbers by name, as they are kept."""
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def mean_nats(logp: Iterable[np.ndarray]) -> float:
    """Nats per token of log-probabilities in pieces; infinite where steps were so large that weights are NaN."""
    nats = -float(np.concatenate(list(logp)).mean(dtype=np.float64))
    return nats if math.isfinite(nats) else math.inf


def head(tokens: int, text: TokenStore) -> TokenStore:
    """The beginning of a text, its last document cut short; only its ids and counts of tokens hold."""
    end = min(tokens + 1, len(text.ids))
    offsets = np.minimum(text.offsets[: np.searchsorted(text.offsets, end - 1) + 1], end)
    end, count = int(offsets[-1]), len(offsets) - 1
    return dataclasses.replace(text, ids=text.ids[:end], offsets=offsets, documents=count, tokens=end - count)


def identity(lm: Run) -> str:
    """A hash of a run: how it was made, its tokenizer, its weights."""
    digest = hashlib.sha256(json.dumps(lm.manifest, sort_keys=True, default=str).encode())
    digest.update(lm.tokenizer.reference().to_str().encode())
    if lm.model.family == "neural":
        for weight in lm.model.state_dict().values():
            digest.update(weight.contiguous().numpy().tobytes())
    return digest.hexdigest()
