"""The narrow waist: what a language model is, and no more.

Shapes: B contexts of a batch, T positions, V the vocabulary, K selected rows.

    logp_BV, state = model.start([[5, 6], []])        # after <bos> + prompt
    logp_BV, state = model.step(state, tokens_B)      # one token further

Everything above (scoring, decoding, mixing) is written against this. Rare powers are separate small protocols, asked
for once with `isinstance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from lmlab.config import Settings


class State(Protocol):
    """What a model remembers of B contexts. A value: `step` never alters it."""

    def select(self, rows_K: Tensor) -> Self:
        """The state of these rows (int64): repeated, reordered or dropped, in one gather."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """Predicts the next token of B contexts. Log-probabilities are natural; rows sum to one."""

    vocab_size: int
    bos: int
    eos: int

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, State]:
        """Read `<bos>` and each prompt (ragged, possibly empty): logp_BV of what follows, and the state."""
        ...

    def step(self, state: Any, tokens_B: Tensor) -> tuple[Tensor, State]:
        """Read one token (int64) a context: logp_BV of what follows, and the new state."""
        ...


@runtime_checkable
class ParallelScorer(Protocol):
    """A rare power: scores known text in parallel, agreeing with `start` and `step`."""

    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and the tokens before it; 0 where the mask is False (padding, right)."""
        ...


@runtime_checkable
class ArrayScorer(Protocol):
    """A rare power of counted models: scores documents laid end to end, in NumPy, without torch."""

    def logp_array(self, ids_N: np.ndarray) -> np.ndarray:
        """Natural log-probability of each id; every `<bos>` opens a new document and itself scores 0."""
        ...


@runtime_checkable
class StreamScorer(Protocol):
    """A rare power of models that learn from what they read: scores documents in order, as one stream."""

    def logp_stream(self, documents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Natural log-probability of each id after `<bos>` of documents (ids_N), in order, in pieces of any length.

        The context ends with a document, what was learned is carried on; the first document agrees with `start` and
        `step`. Each token is predicted before it is learned from.
        """
        ...


@runtime_checkable
class Blend(Protocol):
    """A rare power of models around models: a token's score follows from the text and its scores in the parts."""

    parts: tuple[LanguageModel, ...]

    def blend(self, documents: Iterable[np.ndarray], logp: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """logp_N of the tokens after `<bos>` of documents (ids_N), in order, in pieces of any length.

        Args:
            documents: as for `StreamScorer.logp_stream`; what is said there of the first one holds here too.
            logp: what the parts give the same tokens, in order: logp_PN, in pieces of any length.
        """
        ...


@runtime_checkable
class Unnormalised(Protocol):
    """Declared by a model whose rows do not sum to one; perplexity refuses it."""

    unnormalised: bool


def is_unnormalised(model: object) -> bool:
    """Whether a model declares that its rows do not sum to one."""
    return isinstance(model, Unnormalised) and model.unnormalised


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


class Registered(Storable, LanguageModel, Protocol):
    """What a class in the registry offers: its settings, and how it learns."""

    Settings: ClassVar[Any]
    nbytes: int  # what its numbers take
    family: ClassVar[str]  # "counted": has estimate(settings, vocab_size, ids); "neural": trained by gradient
