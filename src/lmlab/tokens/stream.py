"""Ids to text, one at a time: the text that no later id can change."""

from __future__ import annotations

import codecs

from lmlab.tokens.base import SILENT, Tokenizer


class TextStream:
    """Decodes ids as they come: all that `push` and the final `flush` return, joined, is `tokenizer.decode(ids)`.

    >>> from lmlab.tokens import build_tokenizer
    >>> stream = TextStream(build_tokenizer("byte", {}, []))
    >>> [stream.push(4 + byte) for byte in "né".encode()], stream.flush()
    (['n', '', 'é'], '')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._previous: int | None = None

    def push(self, id: int) -> str:
        """The text that is now certain, empty while a character is unfinished; UsageError for an unknown id."""
        if not 0 <= id < self._tokenizer.vocab_size:
            self._tokenizer.checked([id])  # raises
        text = self._decoder.decode(self._tokenizer.surface(id, self._previous))
        if id not in SILENT:
            self._previous = id
        return text

    def flush(self) -> str:
        """The text that was held back; the stream is then as new."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._previous = None
        return text
