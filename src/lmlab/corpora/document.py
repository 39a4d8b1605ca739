"""The unit that corpora hand up: a document, or a piece of one too large to hold."""

from __future__ import annotations

from dataclasses import dataclass

PIECE_CHARS = 1 << 20
"""No piece is longer than this many characters, so that any corpus is read in bounded memory."""


@dataclass(frozen=True)
class Document:
    """A text that belongs together, or a piece of one.

    Attributes:
        text: the text as it stood; for a record of tokens, the tokens joined by one space.
        id: where it came from, for messages and tables.
        tokens: the tokens of a record that came tokenised, taken as they are.
        group: documents of one group (a module, an author) always land in the same split; empty: grouped by content.
        partition: the split that the source itself names ("train", "valid", "test"), or empty.
        last: False when the next document goes on with this one's text.
    """

    text: str
    id: str = ""
    tokens: tuple[str, ...] | None = None
    group: str = ""
    partition: str = ""
    last: bool = True
