"""What a corpus consists of: documents, in pieces where they are too large to hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

PIECE_CHARS = 1 << 20
"""No piece has more characters than this, so that any corpus is read in bounded memory."""


@dataclass(frozen=True)
class Document:
    """A text that belongs together, or a piece of one."""

    text: str  # as it stood; of a record of tokens, these joined by one space
    id: str = ""  # where it came from, for messages and tables
    tokens: tuple[str, ...] | None = None  # of a record that came tokenised
    group: str = ""  # documents of one group (a module, an author) share a split; empty: grouped by content
    partition: str = ""  # the split that the source itself names ("train", "valid", "test"), or empty
    last: bool = True  # False where the next document continues this one


def text_pieces(texts: Iterable[str], limit: int = PIECE_CHARS) -> Iterator[tuple[str, bool]]:
    r"""Pieces of at most `limit` characters whose concatenation is the text, each with whether it is the last.

    A piece ends at a line end if it holds one, else at white space, else after `limit` characters.

    >>> list(text_pieces(["one two\nthree"], limit=9))
    [('one two\n', False), ('three', True)]
    """
    held = ""
    for text in texts:
        held += text
        while len(held) > limit:
            space = max(held.rfind(" ", 0, limit), held.rfind("\t", 0, limit))
            end = held.rfind("\n", 0, limit) + 1 or space + 1 or limit
            yield held[:end], False
            held = held[end:]
    if held:
        yield held, True


def whole_or_pieces(document: Document) -> Iterable[Document]:
    """A whole document as it is, or the pieces of a long text."""
    if document.tokens is not None or len(document.text) <= PIECE_CHARS:
        return (document,)
    return (dataclasses.replace(document, text=text, last=last) for text, last in text_pieces([document.text]))


def token_pieces(tokens: Sequence[str], limit: int = PIECE_CHARS) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Pieces of a list of tokens, each at most `limit` characters when joined (a longer token stands alone).

    >>> list(token_pieces(["ab", "c", "def"], limit=5))
    [(('ab', 'c'), False), (('def',), True)]
    """
    piece: list[str] = []
    length = 0
    for token in tokens:
        if piece and length + 1 + len(token) > limit:  # one more for the space that joins it to the next piece
            yield tuple(piece), False
            piece, length = [], 0
        piece.append(token)
        length += len(token) + 1
    if piece:
        yield tuple(piece), True
