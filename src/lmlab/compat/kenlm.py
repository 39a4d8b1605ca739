"""KenLM's Python interface over n-gram models of ours: a program that uses kenlm runs by changing one import.

    from lmlab.compat import kenlm               # for: import kenlm
    model = kenlm.Model("runs/x")                # a model directory of ours, an ARPA file, or a binary file of KenLM's
    model.score("to be or not to be")            # log10

A library that imports kenlm itself is given ours before it does: `sys.modules["kenlm"] = lmlab.compat.kenlm`.

Scores are log10, as everywhere in KenLM. They differ from KenLM's by rounding: it adds single-precision numbers up one
by one. `<s>` as a word of a sentence scores what the ARPA file says of it (SRILM: -99, lmplz: 0). KenLM's own binary
files are mapped as they lie, and score what they score with KenLM, to the last bit. An ARPA file without `<s>` or
`</s>`, which KenLM refuses, is read: its sentences are scored with `bos=False, eos=False`.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from lmlab import store
from lmlab.errors import ArtifactError, LmlabError, UsageError
from lmlab.kernels.ngram import calls, plain_calls
from lmlab.models.ngram import listing
from lmlab.models.ngram.kenlm_file import KenlmFile, is_kenlm_file
from lmlab.models.ngram.listing import Listing
from lmlab.models.ngram.model import Ngram
from lmlab.packed import is_packed
from lmlab.tokens.word import WordTokenizer
from lmlab.vocabulary import BOS, EOS, SPECIALS


class CannotReadError(ArtifactError, OSError):
    """No model can be read there. Also an OSError, which is what callers of kenlm expect."""


class FullScoreReturn(NamedTuple):
    """What `BaseFullScore` tells of a word: log10 p, the length of the n-gram found, whether it is unknown."""

    log_prob: float
    ngram_length: int
    oov: bool


@functools.total_ordering
class State:
    """What a model remembers of the words so far: as much as can matter for the next."""

    context = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self.context == other.context

    def __lt__(self, other: State) -> bool:
        return self.context < other.context

    def __hash__(self) -> int:
        return hash(self.context)

    def __copy__(self) -> Self:
        copy = type(self)()
        copy.context = self.context
        return copy

    def __deepcopy__(self, memo: object = None) -> Self:
        return self.__copy__()


class LoadMethod:
    """How kenlm reads a file. Ours are always memory-mapped."""

    LAZY, POPULATE_OR_LAZY, POPULATE_OR_READ, READ, PARALLEL_READ = range(5)


class ARPALoadComplain:
    """What kenlm says of a slow load. Ours says nothing."""

    ALL, EXPENSIVE, NONE = range(3)


class Config:
    """Settings of kenlm's loading, for programs that make them; nothing here depends on them."""

    def __init__(self) -> None:
        self.load_method = LoadMethod.POPULATE_OR_READ
        self.show_progress = True
        self.arpa_complain = ARPALoadComplain.ALL


class Model:
    """An n-gram model as kenlm offers it. Threads may share it; pickling keeps its path alone.

    Args:
        path: a model of ours, a directory or one file, its tokenizer `word` with `split space`; an ARPA file,
            compressed or not; or a binary file that KenLM's build_binary wrote.
        config: taken and ignored.

    Attributes:
        order: the length of the longest n-grams.

    Raises:
        CannotReadError: there is no such model.
    """

    def __init__(self, path: str | bytes | os.PathLike[str], config: Config | None = None) -> None:
        self.path = os.path.abspath(os.fsencode(path))
        try:
            bound = _bound(Path(os.fsdecode(self.path)))
        except (LmlabError, OSError) as error:
            raise CannotReadError(f"Cannot read model {os.fsdecode(path)!r} ({error})") from error
        self.order, self._begin, self._lacks, self._bind, self._spelled = bound
        self._empty = plain_calls.EMPTY
        self._records = struct.Struct(plain_calls.RECORD).iter_unpack

    @functools.cached_property
    def _calls(self) -> plain_calls.Calls:
        """The functions, whose tables are made when one is first called."""
        calls = self._bind()
        if not self._lacks:
            return calls
        score, full_scores = (_unmarked(call, self._lacks) for call in (calls.score, calls.full_scores))
        return replace(calls, score=score, full_scores=full_scores)

    @functools.cached_property
    def _score(self) -> Callable[[str | bytes, object, object], float]:
        return self._calls.score

    @functools.cached_property
    def _full_scores(self) -> Callable[[str | bytes, object, object], bytes]:
        return self._calls.full_scores

    @functools.cached_property
    def _step(self) -> Callable[[int, str | bytes], tuple[int, float, int, bool]]:
        return self._calls.step

    @functools.cached_property
    def ids(self) -> dict[bytes, int]:
        """The ids of all words, as the model has them; kenlm has no such dictionary.

        Raises:
            ArtifactError: a binary file that was built without its words.
        """
        return self._spelled()

    def score(self, sentence: str | bytes, bos: bool = True, eos: bool = True) -> float:
        """Log10 probability of a sentence; `<s>` and `</s>` are added, and not to be part of it.

        Args:
            sentence: words between white space.
            bos: whether it stands at the beginning; else nothing is known of what came before.
            eos: whether it ends there.
        """
        return self._score(sentence, bos, eos)

    def perplexity(self, sentence: str | bytes) -> float:
        """10 to the mean negative log10 probability of its words and `</s>`."""
        text = sentence if isinstance(sentence, bytes) else sentence.encode()
        return float(10.0 ** (-self.score(text) / (len(text.split()) + 1)))

    def full_scores(
        self, sentence: str | bytes, bos: bool = True, eos: bool = True
    ) -> Iterator[tuple[float, int, bool]]:
        """Of each word, and of `</s>`: log10 p, the length of the n-gram found, whether it is unknown."""
        return self._records(self._full_scores(sentence, bos, eos))

    def BeginSentenceWrite(self, state: State) -> None:
        """Make a state that of a sentence's beginning."""
        check_marks([id for id in self._lacks if id == BOS])
        state.context = self._begin

    def NullContextWrite(self, state: State) -> None:
        """Make a state that of knowing nothing."""
        state.context = self._empty

    def BaseScore(self, in_state: State, word: str | bytes, out_state: State) -> float:
        """Log10 p of a word after a state; `out_state` becomes the state then, and may be the same."""
        out_state.context, score, _, _ = self._step(in_state.context, word)
        return score

    def BaseFullScore(self, in_state: State, word: str | bytes, out_state: State) -> FullScoreReturn:
        """As `BaseScore`, with the length of the n-gram found, and whether the word is unknown."""
        answer = self._step(in_state.context, word)
        out_state.context = answer[0]
        return tuple.__new__(FullScoreReturn, answer[1:])  # twice as quick as calling it

    def __contains__(self, word: str | bytes) -> bool:
        return not self._step(self._empty, word)[3]

    def __repr__(self) -> str:
        return f"<Model from {os.fsdecode(os.path.basename(self.path))}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)


class LanguageModel(Model):
    """An older name of `Model`."""


class _Bound(NamedTuple):
    """What a model is made of: order, context of a beginning, markers it lacks, makers of its functions and words."""

    order: int
    begin: int
    lacks: Sequence[int]
    bind: Callable[[], plain_calls.Calls]
    spelled: Callable[[], dict[bytes, int]]


def _bound(path: Path) -> _Bound:
    if path.is_file() and is_kenlm_file(path):
        file = KenlmFile(path)
        return _Bound(file.order, file.begin, (), file.calls, lambda: {w: id for id, w in enumerate(file.words)})
    trie, words = _read(path, compact=False)

    def spelled() -> dict[bytes, int]:
        return {b"<s>": BOS, b"</s>": EOS} | {word: id for id, word in enumerate(words(), len(SPECIALS))}

    def bind() -> plain_calls.Calls:
        return calls.bind(trie.levels, trie.absent, words(), trie.bos_logp)

    return _Bound(trie.order, plain_calls.begin(trie.order), trie.lacks, bind, spelled)


def _unmarked(call: Callable[..., Any], lacks: Sequence[int]) -> Callable[..., Any]:
    """A call of a model without `<s>` or `</s>`, which raises where they are asked for."""

    def checked(sentence: str | bytes, bos: object, eos: object) -> Any:
        check_marks([id for id, asked in ((BOS, bos), (EOS, eos)) if asked and id in lacks])
        return call(sentence, bos, eos)

    return checked


def check_marks(lacks: Sequence[int]) -> None:
    """Raise unless a model, `trie.lacks` of which is given, can score sentences with `<s>` and `</s>` around them.

    Raises:
        UsageError: it cannot.
    """
    if lacks:
        names = " and no ".join({BOS: "<s>", EOS: "</s>"}[id] for id in lacks)
        raise UsageError(f"the model has no {names}", "score without: `ngram query -n`, or bos=False, eos=False")


def read(path: Path, *, compact: bool = False) -> tuple[Any, Sequence[bytes]]:
    """The model at a path, and the spellings of its words from id 4 on.

    Args:
        path: a model directory of ours, one in one file, or an ARPA file.
        compact: whether the compact layout will do; else what is compact is refused.

    Raises:
        LmlabError: there is no such model.
    """
    trie, words = _read(path, compact=compact)
    return trie, words()


def _read(path: Path, *, compact: bool) -> tuple[Any, Callable[[], Sequence[bytes]]]:
    if not _is_ours(path):
        from lmlab.models.ngram import arpa

        trie, words = arpa.read(path)
        return trie, lambda: words
    stored = store.load(path)
    match stored.model, stored.tokenizer:
        case Ngram() as model, WordTokenizer() as tokenizer if tokenizer.plain:
            return model.trie if compact else model.fast_trie, lambda: [
                *map(str.encode, tokenizer.tokens[len(SPECIALS) :])
            ]
    kinds = f"model {stored.config.model.kind} on {stored.config.tokenizer.dump()}"
    raise ArtifactError(f"it is {kinds}, not an ngram of words as they stand", "train with tokenizer word, split space")


def _is_ours(path: Path) -> bool:
    return path.is_dir() or is_packed(path)


def listing_of(path: Path, **options: Any) -> Listing:
    """The n-grams of a model directory of ours, or of an ARPA file as they stand there.

    Args:
        path: the directory or file.
        **options: how an ARPA file is read, see `listing.read`.

    Raises:
        LmlabError: there is no such model, or KenLM cannot hold it.
    """
    return listing.of(*read(path)) if _is_ours(path) else listing.read(path, **options)
