"""What a language model is, and no more: the narrow waist between models and what uses them.

Shapes: B contexts of a batch, V the vocabulary, K selected rows, N ids or tokens.

    logp_BV, state = model.start([[5, 6], []])        # after <bos> + prompt
    logp_BV, state = model.step(state, tokens_B)      # one token further

Scoring, decoding and mixing are written against these two methods. A model that can score known text in a better way
than one token at a time says so with one more method, `scorer()`; `scorers.scorer_of` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from lmlab.errors import SettingError
from lmlab.vocabulary import BOS, EOS, SPECIALS

if TYPE_CHECKING:
    from torch import Tensor

    from lmlab.config import Settings
    from lmlab.kernels.writing.layout import Candidates, Rule, Written


class State(Protocol):
    """What a model keeps of the B contexts it has read. A value: `step` never alters it."""

    def select(self, rows_K: Tensor) -> Self:
        """The state of these rows (int64): repeated, reordered or dropped, in one gather."""
        ...

    def joined(self, other: Self) -> Self:
        """The state of these rows, then those of another state of the same model, whatever each has read."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """Predicts the next token of B contexts. Log-probabilities are natural; rows sum to one.

    Optional: `scorer() -> Scorer`, the way in which the model scores known text. Without it text is scored step by
    step, and rows are taken to sum to one.

    Optional: `account(ids_N) -> {name: values_N}`: how each token of a document but `<bos>` came to its probability:
    `matched`, the length of the n-gram found; `weights`, those of a mixture's components, weights_NM.

    Optional: `reader(rows) -> Reader | None`, the same `start` and `step` in NumPy, where the model as it is has them
    and they are quicker for about so many texts at once.

    Optional: `batch_writer(prompts, tokens) -> BatchWriter | None`, a way to write texts many tokens a call, where the
    model as it is has one that pays for so many tokens in all. Its log-probabilities are those of `step`, to rounding.

    Optional: `beam_writer(prompt, width, tokens) -> BeamWriter | None`, a way to grow a beam many tokens a call.

    Optional: `whole() -> LanguageModel`, the model with all that it can do, where this one is an excerpt that a process
    need not load torch for.

    Optional: `online() -> LanguageModel`, the model as it goes on learning from what it reads.

    Optional: `follow() -> Following`, one text of which no state is kept, where that is much cheaper than by `step`.

    Optional: `read_on(state, ids_BT) -> (hidden_BTH, logp_BV, state)`, for a model that has hidden states: that after
    each of these tokens, with the row and the state after the last. A state of None stands before `<bos>`.
    """

    vocab_size: int
    bos: int
    eos: int

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, State]:
        """Read `<bos>` and each prompt (ragged, possibly empty): logp_BV of what follows, and the state."""
        ...

    def step(self, state: Any, tokens_B: Tensor) -> tuple[Tensor, State]:
        """Read one token (int64) a context: logp_BV of what follows, and the new state."""
        ...


@dataclass(frozen=True)
class ArrayState:
    """A state made of arrays whose first axis is the batch."""

    arrays: tuple[np.ndarray, ...]

    def select(self, rows: Sequence[int]) -> ArrayState:
        """The state of these rows."""
        return ArrayState(tuple(array[list(rows)] for array in self.arrays))

    def joined(self, other: ArrayState) -> ArrayState:
        """The state of these rows, then of those of another; the narrower is filled up with zeros."""
        return ArrayState(tuple(map(_beside, self.arrays, other.arrays)))


def _beside(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    widest = map(max, one.shape[1:], other.shape[1:])
    both = np.zeros((len(one) + len(other), *widest), one.dtype)
    for rows, part in ((slice(len(one)), one), (slice(len(one), None), other)):
        both[(rows, *map(slice, part.shape[1:]))] = part
    return both


class Reader(Protocol):
    """A language model's `start` and `step` in NumPy, the same numbers to rounding.

    A state has `joined`, and a `select` that takes a list.
    """

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, Any]:
        """Read `<bos>` and each prompt: logp_BV of what follows, and the state."""
        ...

    def step(self, state: Any, token_B: Sequence[int]) -> tuple[np.ndarray, Any]:
        """Read one token a context: logp_BV of what follows, and the new state."""
        ...


class BatchWriter(Protocol):
    """Texts after `<bos>` and their prompts, which grow with each call."""

    def write(self, rule: Rule, uniform_BT: np.ndarray) -> Sequence[Written]:
        """Of each text up to T tokens more, fewer where `<eos>` comes; the last is -1 where the model gives NaN."""
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these texts alone, in this order; one may come several times."""
        ...


class BeamWriter(Protocol):
    """A beam after `<bos>` and a prompt, which grows with each call."""

    def extend(self, eos: int, forbidden: Sequence[int], tokens: int) -> Candidates:
        """So many tokens further, fewer where no text goes on or the model gives NaN."""
        ...


def whole(model: Any) -> Any:
    """The model with all that it can do: itself, unless it says otherwise."""
    declared = getattr(model, "whole", None)
    return model if declared is None else declared()


Ranked = tuple[np.ndarray, np.ndarray]
"""The natural log-probabilities of known tokens, and their ranks among all tokens: 1 is the likeliest."""


class Scorer(Protocol):
    """How a model scores known text; `lmlab.models.scorers` has one for each way.

    Attributes:
        normalised: whether the model's rows sum to one; perplexity refuses a model whose rows do not.
        adapts: whether the model learns from what it scores and carries that from document to document. The scores of
            the first document agree with `start` and `step`; those of the others do too where it does not adapt.
    """

    @property
    def normalised(self) -> bool: ...  # noqa: D102

    @property
    def adapts(self) -> bool: ...  # noqa: D102

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """Natural log-probabilities of all tokens but `<bos>`, in order, in pieces of any length.

        Args:
            ids_N: documents laid end to end, each opened by `<bos>`; memory-mapped or not. The context ends with a
                document. Each token is predicted before it is learned from.
        """
        ...

    def token_ranks(self, ids_N: np.ndarray) -> Iterator[Ranked] | None:
        """What `token_logp` gives, beside the rank of each token; None where this model has no way but step by step."""
        ...

    def token_rows(self, ids_N: np.ndarray) -> Iterator[np.ndarray] | None:
        """The log-probabilities of all tokens where `token_logp` gives that of one: rows_NV, in pieces; or None."""
        ...


@runtime_checkable
class Storable(Protocol):
    """A model that can be kept in a directory and built again from it."""

    settings: Settings

    def save(self, folder: Path) -> None:
        """Write the weights into an existing folder."""
        ...

    @classmethod
    def load(cls, folder: Path, settings: Any, vocab_size: int) -> Self:
        """Build from what `save` wrote.

        Raises:
            ArtifactError: files are missing or damaged.
        """
        ...

    def check(self) -> None:
        """Look through all weights or counts, once on a machine, after `load`.

        Raises:
            ArtifactError: some are of no sound model: NaN, or beyond the bounds of what they index.
        """
        ...


class Registered(Storable, LanguageModel, Protocol):
    """What a class in the registry offers: its settings, and how it learns."""

    Settings: ClassVar[Any]
    nbytes: int  # size of its weights or counts
    family: ClassVar[str]  # "counted": has estimate(settings, vocab_size, ids_N); "neural": trained by gradient


def estimated(kind: Any, settings: Any, spellings: Sequence[bytes], ids_N: np.ndarray) -> Any:
    """A counted model of this kind; one that looks at how tokens are spelled says so by `estimate_spelled`.

    Args:
        kind: the class.
        settings: its settings.
        spellings: the UTF-8 bytes of every id, nothing of the special tokens.
        ids_N: documents laid end to end, each opened by `<bos>`.
    """
    spelled = getattr(kind, "estimate_spelled", None)
    return kind.estimate(settings, len(spellings), ids_N) if spelled is None else spelled(settings, spellings, ids_N)


class Fixed:
    """Base of models that follow from their settings alone: nothing to estimate, to write or to read."""

    Settings: ClassVar[Any]
    family: ClassVar[str] = "counted"
    nbytes: ClassVar[int] = 0
    bos, eos = BOS, EOS

    def __init__(self, vocab_size: int, settings: Any = None) -> None:
        if vocab_size < len(SPECIALS):
            raise SettingError("vocab_size", vocab_size, f"an integer >= {len(SPECIALS)}", "the specials need room")
        self.vocab_size, self.settings = vocab_size, settings or self.Settings()

    @classmethod
    def estimate(cls, settings: Any, vocab_size: int, ids_N: np.ndarray) -> Self:
        """The model of these settings, whatever the corpus."""
        return cls(vocab_size, settings)

    def save(self, folder: Path) -> None:
        """Write nothing."""

    @classmethod
    def load(cls, folder: Path, settings: Any, vocab_size: int) -> Self:
        """The model of these settings."""
        return cls(vocab_size, settings)

    def check(self) -> None:
        """Nothing was read."""
