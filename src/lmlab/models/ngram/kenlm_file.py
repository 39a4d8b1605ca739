"""Binary files of KenLM's: memory-mapped and scored as they lie; nothing is converted."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from lmlab.errors import ArtifactError
from lmlab.integrity import plain
from lmlab.kernels.ngram import calls
from lmlab.kernels.ngram.kenlm_layout import KINDS, MAGIC, Head, is_kenlm, layout_of
from lmlab.kernels.ngram.plain_calls import Calls, spelled

_RECORDS = np.dtype([("logp", "<f4"), ("found", "<i4"), ("unknown", "?"), ("", "V3")])  # as RECORD says
_WORD_BITS = 32


def is_kenlm_file(path: Path) -> bool:
    """Whether a file begins as KenLM's binaries do."""
    with path.open("rb") as file:
        return is_kenlm(file.read(len(MAGIC)))


class KenlmFile:
    """A binary model of KenLM's: probing or trie, quantised or not.

    Attributes:
        order: the length of the longest n-grams.
        kind: how KenLM calls its structure.
        counts: n-grams of each length.

    Raises:
        ArtifactError: it is none, is cut short, or says of itself what cannot be.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        mapped = np.memmap(plain(path.resolve()), np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
        self._bytes = np.asarray(mapped)
        self._head, self._levels, self.counts, self._words_at = layout_of(self._bytes, path.name)
        self.order, self.kind = int(self._head[Head.ORDER]), KINDS[self._head[Head.KIND]]

    @cached_property
    def words(self) -> list[bytes]:
        """The spellings of all words by their ids, `<unk>` first.

        Raises:
            ArtifactError: the file has none, or not as many as it says.
        """
        if self._words_at is None:
            raise ArtifactError(f"{self._name} was built without its words", "build_binary keeps them by default")
        words = self._bytes[self._words_at :].tobytes().split(b"\0")
        if len(words) != self._head[Head.BOUND] + 1 or words[-1]:
            told = f"{len(words) - 1:,} words, not {int(self._head[Head.BOUND]):,}"
            raise ArtifactError(f"{self._name} has {told}", "copy it again, or build it again")
        return words[:-1]

    def id_of(self, word: bytes) -> int:
        """The id of a word; 0 is that of unknown ones."""
        from lmlab.kernels.ngram.kenlm_files import word_of

        return int(word_of(self._bytes, self._head, np.frombuffer(word, np.uint8), 0, len(word)))

    @cached_property
    def begin(self) -> int:
        """The context that opens a sentence."""
        return self._marks[0] + 1

    @cached_property
    def _marks(self) -> tuple[int, int]:
        return self.id_of(b"<s>"), self.id_of(b"</s>")

    def told(self, text: bytes, bos: object = True, eos: object = True) -> tuple[np.ndarray, float]:
        """Score the words of a sentence.

        Args:
            text: words between white space.
            bos: whether it stands at the beginning.
            eos: whether it ends there, which is scored as `</s>`.

        Returns:
            Of each word `logp` (log10), `found` (the length of the n-gram) and `unknown`; and the sum.
        """
        from lmlab.kernels.ngram.kenlm_files import score_sentence

        text_T = np.frombuffer(text, np.uint8)
        records = np.zeros(len(text_T) // 2 + 2, _RECORDS)
        begin, end = self._marks[0] if bos else -1, self._marks[1] if eos else -1
        count, total = score_sentence(self._bytes, self._head, self._levels, text_T, begin, end, _numbers(records))
        return records[:count], float(total)

    def calls(self) -> Calls:
        """What scores a sentence or a word; a context is its words, id + 1 each, the nearest in the low bits."""
        from lmlab.kernels.ngram.kenlm_files import score_word, word_of

        model = self._bytes, self._head, self._levels
        order = self.order

        def step(context: int, word: str | bytes) -> tuple[int, float, int, bool]:
            words_S, backoffs_S = np.zeros(order, np.int64), np.zeros(order, np.float32)
            after_S, new_backoffs_S = np.zeros(order, np.int64), np.zeros(order, np.float32)
            length, left = 0, context
            while left:
                left, words_S[length] = left >> _WORD_BITS, (left & 2**_WORD_BITS - 1) - 1
                length += 1
                if length >= order or not 0 <= words_S[length - 1] < model[1][Head.BOUND]:
                    raise TypeError(f"{context} is a context of some other model")
            if length:
                score_word(*model, words_S[0], words_S[1:], new_backoffs_S, length - 1, after_S, backoffs_S)
            text_T = np.frombuffer(spelled(word), np.uint8)
            id = word_of(*model[:2], text_T, 0, len(text_T))
            logp, found, length = score_word(*model, id, words_S, backoffs_S, length, after_S, new_backoffs_S)
            context = sum((int(each) + 1) << _WORD_BITS * place for place, each in enumerate(after_S[:length]))
            return context, float(logp), int(found), id == 0

        if calls.works():
            from lmlab.kernels.ngram import kenlm_calls

            return Calls(*kenlm_calls.bind(*model, *self._marks), step, model)
        return Calls(
            lambda sentence, bos, eos: self.told(spelled(sentence), bos, eos)[1],
            lambda sentence, bos, eos: self.told(spelled(sentence), bos, eos)[0].tobytes(),
            step,
            model,
        )


def _numbers(records_N: np.ndarray) -> np.ndarray:
    return records_N.view(np.float32).reshape(-1, 3)
