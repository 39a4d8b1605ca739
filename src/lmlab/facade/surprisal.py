"""The surprisal of every token, and its sums over words, sentences and documents.

A word is a run of characters other than white space. White space belongs to the word that follows it, and so does its
surprisal: some tokenizers write the space before a word into the word's first token, others make it a token of its own,
and the sums are the same. What follows the last word belongs to `<eos>`. The first word of a document is predicted from
`<bos>`. A token that reaches over several words counts to the first of them. A sentence ends at a line break, and after
. ! ? or … (with closing quotes and brackets) before white space; `<eos>` belongs to the last one. So all sums over
words, sentences or documents add up to the sum over tokens.

Shapes: N tokens, C characters, W words, G groups of tokens.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmlab import disk
from lmlab.corpora.document import Document, text_pieces
from lmlab.corpora.records import clean
from lmlab.errors import EmptyDataError, MissingExtraError, SettingError, UnknownNameError, UsageError
from lmlab.tokens.base import Located, Tokenizer
from lmlab.vocabulary import UNK, spelling_nats

_MOST_SHOWN = 2_000  # tokens, in a notebook
_ENDINGS = (".csv", ".jsonl", ".parquet")
UNITS = ("token", "word", "sentence", "document")
_WHITE = np.array([chr(point).isspace() for point in range(0x3002)])  # beyond there is none
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”\u2019»)\]]*(?=\s)|\n")


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of equal length."""

    columns: Mapping[str, Sequence[Any] | np.ndarray]

    def _repr_html_(self) -> str:
        shown = self.table
        html = getattr(shown, "_repr_html_", None)
        return str(html() if html else f"<pre>{shown}</pre>")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict a row."""
        return self.head(None)

    def head(self, most: int | None) -> list[dict[str, Any]]:
        """A dict for each of the first rows."""
        return self._part(slice(most))

    def _part(self, part: slice) -> list[dict[str, Any]]:
        columns = [column[part] for column in self.columns.values()]
        lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns]
        return [dict(zip(self.columns, values, strict=True)) for values in zip(*lists, strict=True)]

    @property
    def table(self) -> Any:
        """A pandas DataFrame where pandas is installed, else the rows."""
        if importlib.util.find_spec("pandas") is None:
            return self.rows
        import pandas

        return pandas.DataFrame(dict(self.columns))

    def write(self, path: str | Path) -> None:
        """Write a file of the kind that its name says, .csv, .jsonl or .parquet; an old one stands until it is done.

        Raises:
            UsageError: another ending.
            MissingExtraError: .parquet without pyarrow.
            StorageError: it cannot be written.
        """
        check_path(path)
        content = {".csv": self._csv, ".jsonl": self._json_lines, ".parquet": self._parquet}[Path(path).suffix]()
        disk.write_file(Path(path), content)

    def _csv(self) -> str | bytes:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(self.columns)
        lists = {name for name, column in self.columns.items() if len(column) and isinstance(column[0], list)}
        for row in self.rows:
            writer.writerow(json.dumps(cell) if name in lists else cell for name, cell in row.items())
        return text.getvalue()

    def _json_lines(self) -> str | bytes:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)

    def _parquet(self) -> str | bytes:
        import pyarrow
        import pyarrow.parquet

        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(dict(self.columns)), file)
        return file.getvalue()


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Table):
    """Texts scored token by token.

    Attributes:
        total: the same figures as `TextModel.evaluate` gives.
        columns: of each token
            document: the number of its text, from 0.
            id: where the text came from, such as a file and a line; of texts from a source alone.
            sentence, word: their numbers in the document; `<eos>` is a word of its own.
            start, end: its place in the document, in characters of the text as given.
            text: the token.
            bits: its surprisal, the spelling of an unknown token included.
            bits_without_spelling: its surprisal where `[UNK]` is a class of its own.
            rank: 1 is the likeliest of all tokens, equals share the better rank; where ranks were asked for.
            cumulative_bits: the sum of bits so far in the document.
            unknown: whether the vocabulary lacks it.
            alternatives: where they were asked for, the likeliest tokens in its place: `text` and `p` of each.
    """

    total: Mapping[str, Any]
    texts: Sequence[str] = field(repr=False)

    def __repr__(self) -> str:
        texts, tokens = len(self.texts), self.total["tokens"]
        head = (
            f"{texts:,} text{'s' * (texts != 1)}, {tokens:,} tokens: {self.total['total_nats'] / math.log(2):.1f} bits"
        )
        figures = f"{self.total['bits_per_byte']:.3f} bits/byte, perplexity {self.total['perplexity']:.4g} a token"
        return f"<Scores of {head}, {figures}; .table, .by('word'), .write('scores.csv')>"

    def _repr_html_(self) -> str:
        from lmlab.report.html import coloured, escape, fragment

        most = int(self.columns["document"][:_MOST_SHOWN][-1]) + 1
        left = self.total["tokens"] - len(self.columns["bits"][:_MOST_SHOWN])
        return fragment(
            f'<p class="note">{escape(repr(self)[1:-1])}</p>',
            *(coloured(self.pieces(number)) for number in range(most)),
            f'<p class="note">and {left:,} tokens more</p>' if left > 0 else "",
        )

    def pieces(self, document: int, most: int = _MOST_SHOWN) -> list[dict[str, Any]]:
        """The rows of a document as pieces of its text: white space that no token holds is in the text of the next.

        Of the first `most` tokens of all documents alone.
        """
        text, at, pieces = self.texts[document], 0, []
        first, after = np.searchsorted(self.columns["document"][:most], (document, document + 1))
        for row in self._part(slice(first, after)):
            pieces.append({**row, "text": text[at : row["end"]] or ("⏹" if row["text"] == "<eos>" else "")})
            at = max(at, row["end"])
        return pieces

    def by(self, unit: str) -> Table:
        """Surprisal added up exactly by token, word, sentence or document; this module says what these are.

        The columns are those of tokens, but for `rank`; `tokens` says how many, `unknown` how many of them are unknown.

        Raises:
            UnknownNameError: another unit.
        """
        check_unit(unit)
        if unit == "token":
            return self
        keys = ["document", *([] if unit == "document" else [unit])]
        first_G = _firsts(np.stack([np.asarray(self.columns[key]) for key in keys]))
        sums = {
            name: np.add.reduceat(np.asarray(self.columns[name], kind), first_G)
            for name, kind in (("bits", np.float64), ("bits_without_spelling", np.float64), ("unknown", np.int64))
        }
        last_G = np.append(first_G[1:], len(self.columns["bits"])) - 1
        at_G = np.asarray(self.columns["document"])[first_G]
        numbers = UNITS[UNITS.index("document") : UNITS.index(unit) : -1]  # of what holds the unit
        columns: dict[str, Any] = {key: np.asarray(self.columns[key])[first_G] for key in (*numbers, unit)}
        if "id" in self.columns:
            columns = {"document": at_G, "id": [self.columns["id"][first] for first in first_G], **columns}
        if unit != "document":
            columns |= self._places(at_G, first_G, last_G)
        cumulative_G = np.asarray(self.columns["cumulative_bits"])[last_G]
        return Table({**columns, "tokens": last_G - first_G + 1, **sums, "cumulative_bits": cumulative_G})

    def _places(self, document_G: np.ndarray, first_G: np.ndarray, last_G: np.ndarray) -> dict[str, Any]:
        """Where each group of tokens begins and ends without the white space around it, and its text."""
        start_G, end_G = np.asarray(self.columns["start"])[first_G], np.asarray(self.columns["end"])[last_G]
        texts = []
        for group, (document, start, end) in enumerate(zip(document_G, start_G, end_G, strict=True)):
            held = self.texts[document][start:end]
            texts.append(held.strip() or self.columns["text"][last_G[group]])
            start_G[group] = end if not held.strip() else start + len(held) - len(held.lstrip())
            end_G[group] = start_G[group] + len(held.strip())
        return {"start": start_G, "end": end_G, "text": texts}


def check_unit(unit: str) -> None:
    """UnknownNameError where it is none of `UNITS`."""
    if unit not in UNITS:
        raise UnknownNameError("unit", unit, UNITS)


def check_path(path: str | Path) -> None:
    """UsageError where a table cannot be written in the format that the name says."""
    if Path(path).suffix not in _ENDINGS:
        raise UsageError(f"{path} is none of {', '.join(_ENDINGS)}", "let the name end in one of them")
    if Path(path).suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("writing parquet", "parquet")


def _firsts(keys_KN: np.ndarray) -> np.ndarray:
    """Where a group of neighbours with equal keys begins."""
    return np.flatnonzero(np.append(True, (keys_KN[:, 1:] != keys_KN[:, :-1]).any(axis=0)))


@dataclass(frozen=True)
class Text:
    """A document to be scored.

    Attributes:
        given: as it was given; what was read of it may lack a byte order mark and carriage returns.
        located: its tokens, and where they stand in what was read.
        read: what was read.
        id: where it came from.
    """

    given: str
    read: str
    located: Located
    id: str = ""


def scores_of(
    texts: Sequence[Text],
    ids_N: np.ndarray,
    logp_N: np.ndarray,
    rank_N: np.ndarray | None,
    total: Mapping[str, Any],
    likeliest: Sequence[Sequence[Mapping[str, Any]]] | None = None,
) -> Scores:
    """The table of texts.

    Args:
        texts: in order.
        ids_N: of all their tokens, `<eos>` after each text.
        logp_N: natural log-probabilities, the spelling not charged.
        rank_N: ranks, or None.
        total: the figures; they say whether spelling is charged.
        likeliest: of each token the likeliest in its place, and their probabilities.
    """
    spans = [span for text in texts for span in (*text.located.spans, "<eos>")]
    plain_N = -logp_N / math.log(2)
    charged_N, unknown_N = plain_N.copy(), ids_N == UNK
    if total["unk_spelling_nats"]:
        for at in np.flatnonzero(unknown_N).tolist():
            charged_N[at] += spelling_nats(1, len(spans[at].encode())) / math.log(2)
    size_D = np.array([len(text.located.spans) + 1 for text in texts])
    document_N = np.repeat(np.arange(len(texts)), size_D)
    before_D = np.append(0, charged_N.cumsum()[size_D.cumsum()[:-1] - 1])
    sentence_N, word_N, start_N, end_N = _layout(texts, size_D)
    named = {"id": [text.id for text, size in zip(texts, size_D, strict=True) for _ in range(size)]}
    columns: dict[str, Any] = {
        "document": document_N,
        **(named if texts[0].id else {}),
        "sentence": sentence_N,
        "word": word_N,
        "start": start_N,
        "end": end_N,
        "text": spans,
        "bits": charged_N,
        "bits_without_spelling": plain_N,
        **({} if rank_N is None else {"rank": rank_N}),
        "cumulative_bits": charged_N.cumsum() - before_D[document_N],
        "unknown": unknown_N,
        **({} if likeliest is None else {"alternatives": likeliest}),
    }
    return Scores(columns, total, [text.given for text in texts])


def _layout(texts: Sequence[Text], size_D: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each token of all texts and their `<eos>`: sentence, word, start and end.

    The texts lie end to end here, a line break after each, where its `<eos>` stands.
    """
    whole = "".join(text.read + "\n" for text in texts)
    point_C = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), "<u4")
    word_C = ~_WHITE[np.minimum(point_C, len(_WHITE) - 1)]
    begins_C = word_C & ~np.append(False, word_C[:-1])
    number_C = np.cumsum(begins_C) - word_C  # of the word that a character is in, or before
    length_D = np.array([len(text.read) + 1 for text in texts])
    from_D = np.append(0, length_D.cumsum()[:-1])
    document_N, last_D = np.repeat(np.arange(len(texts)), size_D), size_D.cumsum() - 1
    start_N, end_N = np.repeat(length_D - 1, size_D), np.repeat(length_D - 1, size_D)
    of_token_N = np.ones(len(document_N), bool)
    of_token_N[last_D] = False
    start_N[of_token_N] = np.concatenate([text.located.start_N for text in texts])
    end_N[of_token_N] = np.concatenate([text.located.end_N for text in texts])
    word_N = number_C[start_N + from_D[document_N]]

    ends_E = [match.end() for match in _SENTENCE_END.finditer(whole)]
    sentence_W = np.searchsorted(ends_E, np.flatnonzero(begins_C), side="right")
    dense_W = np.cumsum(np.append(False, sentence_W[1:] != sentence_W[:-1])[: len(sentence_W)])
    first_D, after_D, dense_W = number_C[from_D], number_C[from_D + length_D - 1], np.append(dense_W, 0)
    held_N = np.maximum(np.minimum(word_N, after_D[document_N] - 1), first_D[document_N])  # <eos> ends the last one's
    sentence_N = dense_W[held_N] - dense_W[first_D][document_N]
    for document in [at for at, text in enumerate(texts) if len(text.given) != len(text.read)]:
        own = slice(last_D[document] + 1 - size_D[document], last_D[document] + 1)
        given_C1, empty_N = _kept(texts[document].given), end_N[own] == start_N[own]
        last_N = given_C1[end_N[own] - 1] + ~empty_N
        start_N[own] = given_C1[start_N[own]]
        end_N[own] = np.maximum(start_N[own], last_N)
    return sentence_N, word_N - first_D[document_N], start_N, end_N


def _kept(given: str) -> np.ndarray:
    """Where each character that was read stands in a text as given, and the end."""
    lost = {match.start() for match in re.finditer("\\A\ufeff|\r(?=\n)", given)}
    return np.array([place for place in range(len(given) + 1) if place not in lost])


def bits_of_span(scores: Scores, span: Any) -> float:
    """The surprisal of the tokens that stand in a span of the text, wholly or in part; white space before counts not.

    Raises:
        SettingError: no span of the text.
    """
    size = len(scores.texts[0])
    match span:
        case (int(start), int(end)) if 0 <= start < end <= size:
            pass
        case _:
            raise SettingError("span", span, f"(start, end) with 0 <= start < end <= {size}, in characters of the text")
    bits = 0.0
    for row in scores.rows[:-1]:
        held = scores.texts[0][row["start"] : row["end"]]
        if row["start"] + len(held) - len(held.lstrip() or held) < end and row["end"] > start:
            bits += row["bits"]
    return bits


def _checked(texts: Any) -> list[str]:
    """One text or several as a list.

    Raises:
        SettingError: something that is no text.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, (bytes, bytearray, Mapping)):
        raise SettingError("the text", texts, "a string, or several strings in a list")
    listed: list[str] = list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            raise SettingError(f"text {number}", text, "a string", "leave it out")
    return listed


def in_hand(text: Any) -> tuple[list[str], str, str, list[Document]]:
    """Texts in hand under the rules for text in a file: as given, the sha256 of what is read, their name, documents."""
    given, pieces, content = _checked(text), [], hashlib.sha256()
    for number, one in enumerate(given):
        name = "text" if isinstance(text, str) else f"text {number}"
        read = clean(one.removeprefix("\ufeff"), name, "strict")
        if not read:
            raise EmptyDataError(f"{name} holds no text", "give at least one character")
        pieces += [Document(piece, last=last) for piece, last in text_pieces([read])]
        content.update(read.encode() + b"\xff")
    if not pieces:
        raise EmptyDataError("there is no text to score", "give at least one")
    return given, content.hexdigest(), "text" if len(given) == 1 else f"{len(given)} texts", pieces


def located_texts(tokenizer: Tokenizer, pieces: Iterable[Document], given: Sequence[str] | None) -> list[Text]:
    """Whole texts from the pieces of documents, and where their tokens stand."""
    texts: list[Text] = []
    held: list[tuple[str, Located]] = []
    for piece in pieces:
        held.append((piece.text, tokenizer.locate(piece)))
        if piece.last:
            read, located = "".join(text for text, _ in held), Located.joined(held)
            texts.append(Text(given[len(texts)] if given else read, read, located, piece.id))
            held = []
    return texts
