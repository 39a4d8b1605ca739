"""What a tokenizer is: text to ids, ids to text, and a file that the `tokenizers` library can read.

    tokenizer = build_tokenizer("char", {"lower": True}, documents)  # the vocabulary comes from these documents alone
    ids = tokenizer.encode("To be").ids                              # without <bos> and <eos>
    text = tokenizer.decode(ids)

Ids 0 to 3 are the special tokens of `lmlab.vocabulary` in every tokenizer. No text ever encodes to PAD, BOS or EOS: a
literal `<bos>` is spelled like any other text, or is an unknown word where it could be a word of its own.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from lmlab import config, registry
from lmlab.config import setting
from lmlab.corpora.document import whole_or_pieces
from lmlab.errors import ArtifactError, EmptyDataError, SettingError, UsageError, check_integer
from lmlab.integrity import as_object, plain, read_json
from lmlab.memory import map_bytes, map_npy
from lmlab.vocabulary import BOS, EOS, PAD, SPECIALS, UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

    from lmlab.corpora.document import Document

FILE, COUNTS = "tokenizer.json", "token_counts.npy"
SILENT = (PAD, BOS, EOS)
"""Special tokens that decode to no text."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_REMEDY = "copy the whole model directory again, or train it again"


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings(config.Settings):
    """What every tokenizer may be told."""

    specials: tuple[str, ...] = setting((), "other names by which [PAD], [UNK], <bos>, <eos> are shown, in this order")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.specials and (len({*self.specials}) != len(SPECIALS) or "" in self.specials):
            raise SettingError(
                "specials", self.specials, "four names that differ", "of padding, unknown, begin and end"
            )


class Encoded(NamedTuple):
    """A text as uint32 ids, without `<bos>` and `<eos>`.

    `unknown_bytes` counts the UTF-8 bytes of all tokens that became `[UNK]`; `vocabulary.spelling_nats` charges them.
    """

    ids: np.ndarray
    unknown_bytes: int = 0

    @property
    def unknown_tokens(self) -> int:
        """The number of tokens that became `[UNK]`."""
        return int(np.count_nonzero(self.ids == UNK))


class Located(NamedTuple):
    """The tokens of a text as `Tokenizer.spans` shows them, and where each begins and ends in it, in characters."""

    spans: list[str]
    start_N: np.ndarray
    end_N: np.ndarray

    @classmethod
    def of(cls, found: Iterable[tuple[str, int, int]]) -> Self:
        """From tokens one by one."""
        spans, starts, ends = zip(*found, strict=True) if (found := list(found)) else ((), (), ())
        return cls(list(spans), np.array(starts, np.int64), np.array(ends, np.int64))

    @classmethod
    def joined(cls, pieces: Sequence[tuple[str, Self]]) -> Self:
        """Of a text from its pieces, each with its tokens."""
        spans, starts, ends, before = [], [], [], 0
        for text, located in pieces:
            spans += located.spans
            starts.append(located.start_N + before)
            ends.append(located.end_N + before)
            before += len(text)
        return cls(spans, np.concatenate(starts), np.concatenate(ends))


class EncodedDocuments(NamedTuple):
    """D whole documents laid end to end, ids_N (uint32), each `<bos> ids <eos>`.

    Of each the tokens without `<eos>`, how many of them are unknown, and the UTF-8 bytes of these: int64.
    """

    ids_N: np.ndarray
    length_D: np.ndarray
    unknown_tokens_D: np.ndarray
    unknown_bytes_D: np.ndarray


class Matrix(NamedTuple):
    """Texts side by side: ids_BT (int64), `[PAD]` after each, and how many ids each has, lengths_B."""

    ids_BT: np.ndarray
    lengths_B: np.ndarray


class Vocabulary(NamedTuple):
    """The spelling of every id, the special tokens included.

    `merges` (of bpe alone) are the pairs of tokens in the order in which they are merged; `count_V` is how often each
    token stood in the training text, None where its making did not count them.
    """

    tokens: Sequence[str]
    merges: Sequence[tuple[str, str]] = ()
    count_V: np.ndarray | None = None


class Tokenizer(abc.ABC):
    """Text to ids and back; made by `train` or `load`.

    `settings` is an instance of the class's own `Settings`, `count_V` is that of its vocabulary, `specials` are the
    names by which the special tokens are shown (files and decoded text keep their own).
    """

    kind: ClassVar[str]
    Settings: ClassVar[type[TokenizerSettings]]

    def __init__(self, settings: Any, made: Vocabulary) -> None:
        self.settings, self.count_V = settings, made.count_V
        self.specials: Sequence[str] = settings.specials or SPECIALS
        self._tokens = made.tokens
        self.vocab_size = len(made.tokens)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The spelling of every id; of words that lie in a file, read when they are first asked for."""
        return tuple(self._tokens)

    def check(self) -> None:
        """Read all that `load` left for later.

        Raises:
            ArtifactError: it is damaged.
        """
        self.tokens  # noqa: B018

    @property
    def normalisation(self) -> str:
        """What `decode(encode(text))` changes, in one sentence; empty when it changes nothing."""
        return ""

    @classmethod
    @abc.abstractmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> Self:
        """Build a tokenizer from the training split alone; EmptyDataError where there is not one token in it."""

    @abc.abstractmethod
    def encode(self, text: str) -> Encoded:
        """The ids of a text. Never fails: unknown tokens become `[UNK]`, a lone surrogate is read as U+FFFD."""

    def encode_document(self, document: Document) -> Encoded:
        """The ids of a document; a tokenizer of words takes `document.tokens` as they are."""
        return self.encode(document.text)

    def encode_documents(self, documents: Sequence[Document]) -> EncodedDocuments:
        """Many whole documents at once; a long text is encoded in the pieces in which it is read elsewhere."""
        ids: list[Any] = []
        sums_3D = np.zeros((3, len(documents)), np.int64)
        for at, document in enumerate(documents):
            ids.append([BOS])
            for encoded in map(self.encode_document, whole_or_pieces(document)):
                ids.append(encoded.ids)
                sums_3D[:, at] += len(encoded.ids), encoded.unknown_tokens, encoded.unknown_bytes
            ids.append([EOS])
        return EncodedDocuments(np.concatenate(ids).astype(np.uint32) if ids else np.empty(0, np.uint32), *sums_3D)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids; UsageError for an unknown id.

        PAD, BOS and EOS are silent; UNK is U+FFFD, or `[UNK]` in a tokenizer of words.
        """
        pieces, previous = [], None
        for id in self.checked(ids).tolist():
            pieces.append(self.surface(id, previous))
            previous = previous if id in SILENT else id
        return b"".join(pieces).decode("utf-8", "replace")

    @abc.abstractmethod
    def surface(self, id: int, previous: int | None) -> bytes:
        """The UTF-8 bytes that an id adds to the text after `previous`, the last id before it that was not silent."""

    def spellings(self) -> list[bytes]:
        """The UTF-8 bytes of every id after a token that does not change them; nothing of the special tokens."""
        ordinary = range(len(SPECIALS), self.vocab_size)
        return [b""] * len(SPECIALS) + [self.surface(id, None) for id in ordinary]

    def context(self, previous: int | None) -> int:
        """The class of an id, or of the beginning, by what `surface` makes of the next one: few, and 0 if all alike."""
        return 0

    def chat_ids(self, turns: Sequence[tuple[str, str]]) -> list[int] | None:
        """The ids of a conversation, (role, text) a turn, by the template that the tokenizer has; None without one.

        Raises:
            UsageError: the template does not take these turns, or a text spells one of its special tokens.
        """
        return None

    def normalise(self, text: str) -> str:
        """What `decode(encode(text))` is when every token is known."""
        return clean(text)

    def token_text(self, id: int) -> str:
        r"""How an id is shown: special tokens by their names, a byte of an unfinished character as `\xNN`."""
        return self.specials[id] if id < len(SPECIALS) else self.tokens[id]

    @abc.abstractmethod
    def spans(self, text: str) -> list[str]:
        r"""The part of the (normalised) text behind every id of `encode(text)`; a part of a character as `\xNN`."""

    def locate(self, document: Document) -> Located:
        """Every token of `encode_document(document)`, and where it stands in the document's text.

        A token of a tokenizer that changes the text stands where what it was made from does.
        """
        found, end, text = [], 0, document.text
        for span in self.spans(text):
            start = max(end, text.find(span, end))
            end = min(start + len(span), len(text))
            found.append((span, start, end))
        return Located.of(found)

    @abc.abstractmethod
    def reference(self) -> HFTokenizer:
        """An equal tokenizer of the `tokenizers` library; those of word and code expect `is_pretokenized=True`."""

    @classmethod
    def counted(cls, settings: Any, counts: Mapping[str, int]) -> Self:
        """The tokenizer of what was counted, as far as `vocab_size` and `min_count` of the settings allow."""
        tokens, count_V = vocabulary(counts, settings.vocab_size, settings.min_count)
        return cls(settings, Vocabulary(tokens, count_V=count_V))

    def __len__(self) -> int:
        return self.vocab_size

    def __contains__(self, token: str) -> bool:
        return token in self._id_of

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return {self.token_text(id): id for id in reversed(range(self.vocab_size))}  # of equal ones the first

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, written as `id_to_token` writes it; None where the vocabulary lacks it.

        >>> from lmlab.corpora.document import Document
        >>> tokenizer = build_tokenizer("word", {}, [Document("to be or not to be")])
        >>> tokenizer.token_to_id("be"), tokenizer.token_to_id("bee"), "be" in tokenizer, len(tokenizer)
        (4, None, True, 8)
        """
        return self._id_of.get(token)

    def id_to_token(self, id: int) -> str:
        """How an id is shown; UsageError for an unknown one."""
        return self.token_text(int(self.checked([id])[0]))

    def top(self, n: int = 20) -> list[tuple[str, int]]:
        """The commonest tokens of the training text, specials left out, and how often they stood there.

        Raises:
            SettingError: n is no integer >= 1.
            UsageError: nobody counted them.
        """
        check_integer("n", n)
        if self.count_V is None:
            remedy = "count the ids of encode(text).ids with numpy.bincount"
            raise UsageError(f"this {self.kind} tokenizer keeps no counts of its tokens", remedy)
        order_V = np.argsort(-self.count_V[len(SPECIALS) :], kind="stable")[:n] + len(SPECIALS)
        return [(self.token_text(id), int(self.count_V[id])) for id in order_V.tolist()]

    def to_matrix(self, lines: Iterable[str], max_len: int | None = None) -> Matrix:
        """Texts as rows of ids, each `<bos> ids <eos>` and then padding, cut after `max_len` ids.

        Raises:
            SettingError: something that is no text, or `max_len` is no integer >= 1.

        >>> build_tokenizer("byte", {}, []).to_matrix(["a", "bcd"], max_len=4).ids_BT.tolist()
        [[2, 101, 3, 0], [2, 102, 103, 104]]
        """
        if max_len is not None:
            check_integer("max_len", max_len)
        rows = []
        for number, line in enumerate([lines] if isinstance(lines, str) else lines):
            if not isinstance(line, str):
                raise SettingError(f"line {number}", line, "a string")
            rows.append([BOS, *self.encode(line).ids.tolist(), EOS][:max_len])
        lengths_B = np.array(list(map(len, rows)), np.int64)
        ids_BT = np.full((len(rows), lengths_B.max(initial=0)), PAD, np.int64)
        for row, ids in zip(ids_BT, rows, strict=True):
            row[: len(ids)] = ids
        return Matrix(ids_BT, lengths_B)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, and the counts, into an existing folder; the caller keeps the settings."""
        self.check()  # what is written may be what was left to be read
        self._write(folder / FILE)
        if self.count_V is not None:
            np.save(folder / COUNTS, self.count_V)

    def _write(self, path: Path) -> None:
        path.write_text(self.reference().to_str(pretty=True), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, folder: Path, settings: Any) -> Self:
        """Read what `save` wrote, some of it perhaps not before `check`.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        tokens, merges = _model_of(read_json(folder / FILE, _REMEDY), folder / FILE)
        count_V = read_counts(folder)
        if count_V is not None and len(count_V) != len(tokens):
            raise ArtifactError(f"{folder / COUNTS} is damaged (not the counts of {len(tokens)} tokens)", _REMEDY)
        return cls(settings, Vocabulary(tokens, merges, count_V))

    def checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The ids as an int64 array; UsageError where one is outside the vocabulary."""
        ids_N = np.asarray(ids, dtype=np.int64)
        if ids_N.size and (ids_N.min() < 0 or ids_N.max() >= self.vocab_size):
            wrong = ids_N[(ids_N < 0) | (ids_N >= self.vocab_size)][0]
            problem = f"id {wrong} is outside the {self.vocab_size} ids of this {self.kind} tokenizer"
            raise UsageError(problem, "decode with the tokenizer that made the ids")
        return ids_N


def build_tokenizer(kind: str, settings: Mapping[str, Any], documents: Iterable[Document]) -> Tokenizer:
    """Train a tokenizer of a registered kind on documents; settings may be given as text.

    >>> from lmlab.corpora.document import Document
    >>> build_tokenizer("char", {"lower": True}, [Document("Abba")]).encode("bab").ids.tolist()
    [5, 4, 5]
    """
    cls = registry.resolve("tokenizer", kind)
    trained: Tokenizer = cls.train(documents, cls.Settings.make(settings, "tokenizer"))
    return trained


def load_tokenizer(folder: Path, kind: str, settings: Mapping[str, Any], *, known: bool = False) -> Tokenizer:
    """Load what the `save` of a registered kind wrote.

    Args:
        folder: where it lies.
        kind: of the tokenizer.
        settings: as the caller kept them.
        known: whether the files were read and found sound before, so that their words may wait until they are needed.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    cls = registry.resolve("tokenizer", kind)
    loaded: Tokenizer = cls.load(folder, cls.Settings.make(settings, "tokenizer"))
    if not known:
        loaded.check()
    return loaded


class Coverage(NamedTuple):
    """How much of a text a vocabulary knows: `types` entries of it occur there, the special tokens not counted."""

    tokens: int
    unknown_tokens: int
    unknown_bytes: int
    types: int

    @property
    def share(self) -> float:
        """The known tokens' share of all, 1 for an empty text."""
        return 1 - self.unknown_tokens / max(self.tokens, 1)


def coverage(tokenizer: Tokenizer, documents: Iterable[Document]) -> Coverage:
    """Measure how much of these documents a tokenizer's vocabulary knows, in bounded memory."""
    tokens = unknown_tokens = unknown_bytes = 0
    seen_V = np.zeros(tokenizer.vocab_size, dtype=bool)
    for encoded in map(tokenizer.encode_document, documents):
        tokens += len(encoded.ids)
        unknown_tokens += encoded.unknown_tokens
        unknown_bytes += encoded.unknown_bytes
        seen_V[encoded.ids] = True
    return Coverage(tokens, unknown_tokens, unknown_bytes, int(np.count_nonzero(seen_V[len(SPECIALS) :])))


def vocabulary(counts: Mapping[str, int], size: int | None, min_count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The special tokens, then all others by descending count and, among equals, by spelling; and their counts.

    >>> vocabulary({"b": 2, "a": 2, "c": 9, "d": 1}, size=7, min_count=1)[0][4:]
    ('c', 'a', 'b')
    """
    kept = [token for token, count in counts.items() if count >= min_count and token not in SPECIALS]
    kept.sort(key=lambda token: (-counts[token], token))
    if not kept:
        problem = f"no token occurs min_count={min_count} times in the training text, so there is no vocabulary"
        raise EmptyDataError(problem, "give more text or lower min_count")
    tokens = SPECIALS + tuple(kept if size is None else kept[: size - len(SPECIALS)])
    count_V = np.zeros(len(tokens), np.int64)
    count_V[len(SPECIALS) :] = [counts[token] for token in tokens[len(SPECIALS) :]]
    return tokens, count_V


def clean(text: str) -> str:
    r"""The text with every lone surrogate, which UTF-8 cannot spell, replaced by U+FFFD.

    >>> clean("a\ud800b") == "a\ufffdb"
    True
    """
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def lower(text: str) -> str:
    """Lower case, every character on its own: Σ is always σ, whatever stands beside it.

    >>> lower("ΟΔΟΣ"), "ΟΔΟΣ".lower()
    ('οδοσ', 'οδος')
    """
    return text.replace("\N{GREEK CAPITAL LETTER SIGMA}", "\N{GREEK SMALL LETTER SIGMA}").lower()


class Unread(Sequence[str]):
    """The tokens of a `tokenizer.json`, which is mapped at once and decoded when they are asked for, all together.

    Args:
        folder: where it lies.
        many: how many it has.

    Raises:
        ArtifactError: there is none; later, that it is damaged.
    """

    def __init__(self, folder: Path, many: int) -> None:
        self._path, self._many = folder / FILE, many
        try:
            self._text_B = map_bytes(plain(self._path))
        except OSError as error:
            raise ArtifactError(f"{self._path} cannot be read ({error.strerror})", _REMEDY) from error

    def __len__(self) -> int:
        return self._many

    def __iter__(self) -> Iterator[str]:
        tokens, _ = _model_of(as_object(self._text_B.tobytes(), self._path, _REMEDY), self._path)
        if len(tokens) != self._many:
            raise ArtifactError(f"{self._path} has {len(tokens):,} tokens, but {COUNTS} {self._many:,}", _REMEDY)
        return iter(tokens)

    def __getitem__(self, at: Any) -> Any:
        return [*self][at]


def read_counts(folder: Path) -> np.ndarray | None:
    """How often each token was counted; None where that is not kept."""
    try:
        count_V = np.array(map_npy(folder / COUNTS))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / COUNTS} is damaged ({error})", _REMEDY) from error
    if count_V.ndim != 1 or count_V.dtype != np.int64 or count_V.min(initial=0) < 0:
        raise ArtifactError(f"{folder / COUNTS} is damaged (not counts of tokens)", _REMEDY)
    return count_V


def _model_of(content: Mapping[str, Any], path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens by id and the merges of what a `tokenizer.json` holds."""
    match content:
        case {"model": {"vocab": dict(vocab), "merges": list(merges)}}:
            pairs = [(pair[0], pair[1]) for pair in merges if isinstance(pair, list) and len(pair) == 2]
        case {"model": {"vocab": dict(vocab)}}:
            merges, pairs = [], []
        case _:
            raise ArtifactError(f"{path} holds no vocabulary", _REMEDY)
    ids, wanted, tokens = [*vocab.values()], [*range(len(vocab))], [*vocab]
    sound = {*map(type, ids)} == {int} and sorted(ids) == wanted
    if sound and ids != wanted:  # as we never write them; sorting millions of words takes a second
        tokens.sort(key=vocab.__getitem__)
    if not sound or tuple(tokens[: len(SPECIALS)]) != SPECIALS or len(pairs) != len(merges):
        problem = f"{path} is not a vocabulary of ours: ids must run from 0, the special tokens first"
        raise ArtifactError(problem, _REMEDY)
    return tokens, pairs
