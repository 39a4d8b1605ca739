"""Score sentences, one a line, from a file or standard input; prints what KenLM's query prints.

Of each word: word=id, the length of the n-gram found, log10 of its probability; the id 0 is an unknown word. With
--json, `sentences` lists what is shown of each.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmlab.cli.parser import Parser
from lmlab.corpora import DataSettings
from lmlab.corpora.raw import Origin, named_origin
from lmlab.corpora.reading import decode, inflate, lines, packed, utf8, whole_words
from lmlab.models.ngram.kenlm_file import is_kenlm_file
from lmlab.tokens.scan import scanner
from lmlab.vocabulary import BOS, EOS, SPECIALS, UNK

if TYPE_CHECKING:
    from lmlab.compat.kenlm import Model

EXAMPLES = """\
  echo "to be or not to be" | lmlab ngram query runs/kn5
  lmlab ngram query kn5.arpa.gz held-out.txt.zst -v summary
  lmlab ngram query runs/kn5 held-out.txt --json -v sentence -v summary"""
_LEVELS = ("word", "sentence", "summary")
_MARKERS = {"<s>": BOS, "</s>": EOS}
_BYTES_A_WORD = 5  # or thereabouts


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model directory, an ARPA file or a binary of KenLM's")
    parser.add_argument("text", nargs="?", default="-", metavar="TEXT", help="a file (default: standard input)")
    parser.add_argument("-n", "--no-marks", action="store_true", help="without <s> before and </s> after a sentence")
    parser.add_argument(
        "-v", "--show", action="append", choices=_LEVELS, metavar="WHAT", help="word, sentence, summary (default: all)"
    )
    parser.add_errors()


@dataclass
class _Sums:
    """What is summed up: tokens, unknown tokens, log10 of all and of the known."""

    tokens: int = 0
    unknown: int = 0
    total: float = 0.0
    known: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The figures by their names."""
        return {
            "perplexity_with_oovs": _perplexity(self.total, self.tokens),
            "perplexity_without_oovs": _perplexity(self.known, self.tokens - self.unknown),
            "oovs": self.unknown,
            "tokens": self.tokens,
        }


@dataclass
class _Sentence:
    """A line: its log10 p, its unknown tokens; of each word its spelling, id, length of the n-gram and log10 p."""

    total: float
    unknown: int
    words: list[tuple[str, int, int, float]]


def run(options: argparse.Namespace) -> int:
    """Score, line by line where lines are to be shown, sum up."""
    DataSettings(errors=options.errors)
    shown, origin, sums = set(options.show or _LEVELS), named_origin(options.text), _Sums()
    show = _show_json if options.json else _show_lines
    path = Path(options.model)
    binary = path.is_file() and is_kenlm_file(path)
    if shown == {"summary"} and not options.no_marks and not binary:
        _score_whole(options, origin, sums)
        show(iter(()), shown, sums)
    else:
        show(_sentences(options, origin, sums, spelled="word" in shown), shown, sums)
    return 0


def _show_lines(sentences: Iterator[_Sentence], shown: set[str], sums: _Sums) -> None:
    for sentence in sentences:
        if "word" in shown:
            parts = (f"{word}={id} {length} {logp:.8g}\t" for word, id, length, logp in sentence.words)
            print(*parts, sep="", end="" if "sentence" in shown else "\n")
        if "sentence" in shown:
            print(f"Total: {sentence.total:.8g} OOV: {sentence.unknown}")
    if "summary" in shown:
        with_oovs, without, unknown, tokens = sums.summary().values()
        print(f"Perplexity including OOVs:\t{with_oovs}\nPerplexity excluding OOVs:\t{without}")
        print(f"OOVs:\t{unknown}\nTokens:\t{tokens}")


def _show_json(sentences: Iterator[_Sentence], shown: set[str], sums: _Sums) -> None:
    """One object; its sentences are written as they come, one a line, so that a text of any length is shown."""
    print("{", end="")
    if shown & {"word", "sentence"}:
        print('\n  "sentences": [', end="")
        for number, sentence in enumerate(sentences):
            told: dict[str, Any] = {}
            if "sentence" in shown:
                told |= {"log10": _finite(sentence.total), "oovs": sentence.unknown}
            if "word" in shown:
                words = ((word, id, length, _finite(logp)) for word, id, length, logp in sentence.words)
                told["words"] = [dict(zip(("word", "id", "ngram", "log10"), each, strict=True)) for each in words]
            print(",\n    " if number else "\n    ", json.dumps(told, ensure_ascii=False), sep="", end="")
        print("\n  ]", end="," if "summary" in shown else "")
    for _ in sentences:  # where none is shown they are summed up all the same
        pass
    if "summary" in shown:
        pairs = (f"{json.dumps(name)}: {json.dumps(_finite(value))}" for name, value in sums.summary().items())
        print("\n  " + ",\n  ".join(pairs), end="")
    print("\n}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _perplexity(log10: float, tokens: int) -> float:
    try:
        return 10 ** (-log10 / tokens) if tokens else math.nan
    except OverflowError:
        return math.inf


def _sentences(options: argparse.Namespace, origin: Origin, sums: _Sums, *, spelled: bool) -> Iterator[_Sentence]:
    """The lines of a text, with their words where these are to be shown, added to the sums as they come."""
    from lmlab.compat.kenlm import Model

    model, marked = Model(options.model), not options.no_marks
    ids = model.ids if spelled else {}
    texts = decode(inflate(origin.read(), origin.name), origin.name, options.errors)
    for line in map(str.encode, lines(texts, origin.name)):
        scores = list(model.full_scores(line, bos=marked, eos=marked))
        total, unknown = math.fsum(logp for logp, _, _ in scores), sum(oov for _, _, oov in scores)
        sums.tokens += len(scores)
        sums.unknown += unknown
        sums.total += total
        sums.known += math.fsum(logp for logp, _, oov in scores if not oov)
        words: list[tuple[str, int, int, float]] = []
        if spelled:
            named = zip([*line.split(), b"</s>"], scores, strict=False)  # bytes split at `SPACES`, as str do not
            words = [(word.decode(), 0 if oov else ids[word], length, logp) for word, (logp, length, oov) in named]
        yield _Sentence(total, unknown, words)


def _score_whole(options: argparse.Namespace, origin: Origin, sums: _Sums) -> None:
    """Sum up a whole text in large pieces."""
    from lmlab.compat.kenlm import check_marks, read

    trie, spelled = read(Path(options.model), compact=True)
    check_marks(trie.lacks)
    size = None if origin.size is None or packed(origin.read()) else origin.size
    score = trie.scorer(None if size is None else size // _BYTES_A_WORD)
    known = [word.decode() for word in spelled]
    markers = _Markers(options.model, known)
    words = scanner(size, [*known, *markers.ids], learn=False)
    tail_N = np.empty(0, dtype=np.uint32)
    pieces = utf8(inflate(origin.read(), origin.name), origin.name, options.errors)
    for fed_N in _fed(words, whole_words(pieces, origin.name)):
        piece_N, begins_M = markers.read(fed_N)
        ids_N = np.concatenate([tail_N, piece_N])
        log10_N = score(ids_N)[len(tail_N) :] / math.log(10)
        for at in begins_M:
            log10_N[at] = markers.begin_log10(ids_N[: len(tail_N) + at], trie.order)
        known_N = piece_N != UNK
        sums.tokens += int(np.count_nonzero(piece_N != BOS)) + len(begins_M)
        sums.unknown += int(np.count_nonzero(~known_N))
        sums.total += float(log10_N.sum(dtype=np.float64))
        sums.known += float(log10_N[known_N].sum(dtype=np.float64))
        tail_N = ids_N[max(0, len(ids_N) - trie.order + 1) :]


def _fed(words: Any, pieces: Iterator[bytes]) -> Iterator[np.ndarray]:
    yield from map(words.feed, pieces)
    yield words.close()


class _Markers:
    """`<s>` and `</s>` as words of a text, which are those of the model, as in KenLM, unless it learned them as words.

    The scanner knows them by the first ids beyond the vocabulary. After them models read on as after `<bos>` and
    `<eos>`; but to predict `<s>` itself is for them to know alone, so the KenLM interface is asked what that costs.
    """

    def __init__(self, path: str, words: list[str]) -> None:
        self._path, self._words, self._first = path, words, len(SPECIALS) + len(words)
        self.ids = {marker: id for id, marker in enumerate((m for m in _MARKERS if m not in words), self._first)}
        self._model: Model | None = None

    def read(self, ids_N: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """The ids with those of the model in place of the scanner's, and where `<s>` stands as a word."""
        if not len(ids_N) or ids_N.max() < self._first:
            return ids_N, []
        places = {marker: np.flatnonzero(ids_N == id) for marker, id in self.ids.items()}
        for marker, at_M in places.items():
            ids_N[at_M] = _MARKERS[marker]
        return ids_N, places["<s>"].tolist() if "<s>" in places else []

    def begin_log10(self, before_N: np.ndarray, order: int) -> float:
        """Log10 p of `<s>` after ids."""
        from lmlab.compat.kenlm import Model, State

        self._model = self._model or Model(self._path)
        state, context = State(), before_N[max(0, len(before_N) - order + 1) :].tolist()
        self._model.NullContextWrite(state)
        for id in context:
            if id == BOS:
                self._model.BeginSentenceWrite(state)
            else:
                word = self._words[id - len(SPECIALS)] if id >= len(SPECIALS) else ("</s>" if id == EOS else "<unk>")
                self._model.BaseScore(state, word, state)
        return self._model.BaseScore(state, "<s>", state)
