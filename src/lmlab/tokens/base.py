"""What a tokenizer is: text to ids, ids to text, and a file that the `tokenizers` library can read.

    tokenizer = build_tokenizer("char", {"lower": True}, documents)  # the vocabulary comes from these documents alone
    ids = tokenizer.encode("To be").ids                              # without <bos> and <eos>
    text = tokenizer.decode(ids)

Ids 0 to 3 are the special tokens of `lmlab.vocabulary` in every tokenizer. No text ever encodes to PAD, BOS or EOS: a
literal `<bos>` is spelled like any other text, or is an unknown word where it could be a word of its own.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from lmlab import registry
from lmlab.config import Settings
from lmlab.errors import ArtifactError, EmptyDataError, UsageError
from lmlab.integrity import read_json
from lmlab.vocabulary import BOS, EOS, PAD, SPECIALS, UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

    from lmlab.corpora.document import Document

FILE = "tokenizer.json"
SILENT = (PAD, BOS, EOS)
"""Special tokens that decode to no text."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


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


class Tokenizer(abc.ABC):
    """Text to ids and back; made by `train` or `load`.

    `settings` is an instance of the class's own `Settings`, `tokens` the spelling of every id, `merges` (of bpe alone)
    the pairs of tokens in the order in which they are merged.
    """

    kind: ClassVar[str]
    Settings: ClassVar[type[Settings]]

    def __init__(self, settings: Any, tokens: Sequence[str], merges: Sequence[tuple[str, str]] = ()) -> None:
        self.settings = settings
        self.tokens = tuple(tokens)
        self.vocab_size = len(self.tokens)

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

    @abc.abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids; UsageError for an unknown id.

        PAD, BOS and EOS are silent; UNK is U+FFFD, or `[UNK]` in a tokenizer of words.
        """

    @abc.abstractmethod
    def surface(self, id: int, previous: int | None) -> bytes:
        """The UTF-8 bytes that an id adds to the text after `previous`, the last id before it that was not silent."""

    def normalise(self, text: str) -> str:
        """What `decode(encode(text))` is when every token is known."""
        return clean(text)

    def token_text(self, id: int) -> str:
        r"""How an id is shown: special tokens by their names, a byte of an unfinished character as `\xNN`."""
        return self.tokens[id]

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

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into an existing folder; the caller keeps the settings."""
        (folder / FILE).write_text(self.reference().to_str(pretty=True), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, folder: Path, settings: Any) -> Self:
        """Read what `save` wrote; ArtifactError where it is missing or damaged."""
        return cls(settings, *_read_model(folder / FILE))

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


def load_tokenizer(folder: Path, kind: str, settings: Mapping[str, Any]) -> Tokenizer:
    """Load what the `save` of a registered kind wrote; ArtifactError where it is missing or damaged."""
    cls = registry.resolve("tokenizer", kind)
    loaded: Tokenizer = cls.load(folder, cls.Settings.make(settings, "tokenizer"))
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


def vocabulary(counts: Mapping[str, int], size: int | None, min_count: int) -> tuple[str, ...]:
    """The special tokens, then all others by descending count and, among equals, by spelling.

    >>> vocabulary({"b": 2, "a": 2, "c": 9, "d": 1}, size=7, min_count=1)[4:]
    ('c', 'a', 'b')
    """
    kept = [token for token, count in counts.items() if count >= min_count and token not in SPECIALS]
    kept.sort(key=lambda token: (-counts[token], token))
    if not kept:
        problem = f"no token occurs min_count={min_count} times in the training text, so there is no vocabulary"
        raise EmptyDataError(problem, "give more text or lower min_count")
    return SPECIALS + tuple(kept if size is None else kept[: size - len(SPECIALS)])


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


def _read_model(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens by id and the merges of a `tokenizer.json`."""
    remedy = "copy the whole model directory again, or train it again"
    match read_json(path, remedy):
        case {"model": {"vocab": dict(vocab), "merges": list(merges)}}:
            pairs = [(pair[0], pair[1]) for pair in merges if isinstance(pair, list) and len(pair) == 2]
        case {"model": {"vocab": dict(vocab)}}:
            merges, pairs = [], []
        case _:
            raise ArtifactError(f"{path} holds no vocabulary", remedy)
    token_of = {id: token for token, id in vocab.items() if isinstance(id, int)}
    tokens = [token_of[id] for id in range(len(vocab)) if id in token_of]
    if tuple(tokens[: len(SPECIALS)]) != SPECIALS or len(tokens) < len(vocab) or len(pairs) != len(merges):
        problem = f"{path} is not a vocabulary of ours: ids must run from 0, the special tokens first"
        raise ArtifactError(problem, remedy)
    return tokens, pairs
