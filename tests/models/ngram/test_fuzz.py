"""Whatever bytes come in as corpora, ARPA files, queries or stored models: an answer, or a clear error in one line.

`make slow` runs 100,000 cases. A failure names its case; `Case("arpa", 57)` makes the same bytes again.
"""

from __future__ import annotations

import faulthandler
import gzip
import io
import math
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmlab
from lmlab.cli import main
from lmlab.compat.kenlm import Model
from lmlab.corpora import reading
from lmlab.errors import LmlabError
from lmlab.facade.estimate import ngram_of
from lmlab.kernels import engine
from lmlab.models.ngram import arpa
from lmlab.models.ngram.smoothing import SMOOTHINGS
from lmlab.tokens.scan import scanner

TEXT = b"to be or not to be\nthat is the question\n\nto be or to be\n\xc3\xa9t\xc3\xa9 to be\n"
LONE = b"\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\t-.5\n-.1\t</s>\n\n\\end\\\n"
GAPS = (  # as SRILM writes them: `a b` and `<s> a` are missing
    b"\\data\\\nngram 1=4\nngram 2=1\nngram 3=1\n\n"
    b"\\1-grams:\n-99\t<s>\t-0.3\n-.4\t</s>\n-.5\ta\t-.2\n-.6\tb\t-1e-1\n\n"
    b"\\2-grams:\n-0.25\tb a\n\n\\3-grams:\n-0.125\t<s> a b\n\n\\end\\\n"
)
ALPHABETS = (
    [bytes([byte]) for byte in range(256)],
    *(
        [letter.encode() for letter in letters]
        for letters in ("ab \n", "a \n\t\r\0\v", "019.-+eE \t\n\\", "aé\u2028\u00a0 \n")
    ),
    b"<s>,</s>,<unk>,<UNK>,[PAD],[UNK],<bos>,<eos>,to,be, , , ,\n".split(b","),
)
NUMBERS = b"0,1,-1,3,99,4294967295,111111111111111111111111111111,1e400,nan,inf".split(b",")
PATIENCE = 120  # seconds a hang lasts until it is shown


class Case(random.Random):
    """A source of damage."""

    def __init__(self, kind: str, number: int) -> None:
        super().__init__(f"{kind} {number}")

    def noise(self, most: int = 80) -> bytes:
        return b"".join(self.choices(self.choice(ALPHABETS), k=self.randrange(most)))

    def damaged(self, data: bytes) -> bytes:
        for _ in range(self.choice((1, 1, 1, 2, 5))):
            start = self.randrange(len(data) + 1)
            stop = min(len(data), start + self.choice((1, 1, 2, 10, 1000)))
            piece = data[start:stop]
            numbers = [match.span() for match in re.finditer(rb"\d+", data)]
            change = self.choice(("flip", "cut", "drop", "double", "insert", "move", "number"))
            if change == "flip" and piece:
                data = data[:start] + bytes([piece[0] ^ 1 << self.randrange(8)]) + data[start + 1 :]
            elif change == "cut":
                data = data[:start]
            elif change == "number" and numbers:
                start, stop = self.choice(numbers)
                data = data[:start] + self.choice(NUMBERS) + data[stop:]
            else:
                instead = {"double": 2 * piece, "insert": self.noise(9) + piece, "move": piece[::-1]}.get(change, b"")
                data = data[:start] + instead + data[stop:]
        return data


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory, and ARPA files beside it."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "text").write_bytes(TEXT)
    lmlab.estimate(folder / "text", order=3, out=folder / "packed", layout="compact")
    lm = lmlab.estimate(folder / "text", order=3, out=folder / "model")
    arpa.write(folder / "whole.arpa", ngram_of(lm).fast_trie, [token.encode() for token in lm.tokenizer.tokens[4:]])
    (folder / "lone.arpa").write_bytes(LONE)
    (folder / "gaps.arpa").write_bytes(GAPS)
    (folder / "whole.arpa.gz").write_bytes(gzip.compress((folder / "whole.arpa").read_bytes(), mtime=0))
    return folder


def with_both_engines(work: Callable[[], object]) -> object:
    """What the work answers, the same with both engines, errors too."""
    answers: list[object] = []
    for compiled in (False, True):
        with engine.only(compiled):
            try:
                answers.append(work())
            except LmlabError as error:
                answers.append(error)
    plain, compiled_answer = answers
    assert repr(plain) == repr(compiled_answer)
    if isinstance(plain, LmlabError):
        raise plain
    return plain


def asked(trie: Any, ids_N: np.ndarray) -> list[object]:
    """What can be asked of any model, no answer NaN."""
    logp_N, rows = trie.logp_array(ids_N), trie.rows(trie.begin([[], ids_N[:1].tolist(), ids_N[:3].tolist()]))
    assert not np.isnan(logp_N).any()
    assert not np.isnan(rows).any()
    return [trie.ngrams, np.round(logp_N, 3).tolist()]


def corpus(case: Case, stored: Path) -> None:
    path = stored / "corpus"
    path.write_bytes(case.choice((case.noise, lambda: case.noise(2000), lambda: case.damaged(TEXT)))())
    settings = {
        "order": case.randint(1, 5),
        "smoothing": case.choice(SMOOTHINGS),
        "prune": case.choice(((), (0, 1), (0, 0, 2))),
        "compat": case.choice(("none", "lmplz")),
        "layout": case.choice(("fast", "fast", "fast", "compact")),
    }
    limits = {"min_count": case.choice((1, 2)), "vocab_size": case.choice((None, 6, 9))}

    def estimate() -> object:
        lm = lmlab.estimate(path, **settings, **limits)
        ids_N = np.array([2, 1, 4 % lm.tokenizer.vocab_size, 3, 2, 3], dtype=np.uint32)
        return asked(ngram_of(lm).trie, ids_N), lm.tokenizer.tokens

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", case.choice((7, 64, reading.PIECE)))
        with_both_engines(estimate)


def arpa_file(case: Case, stored: Path) -> None:
    path = stored / "damaged.arpa"
    name = case.choice(("whole.arpa", "whole.arpa", "whole.arpa.gz", "lone.arpa", "gaps.arpa"))
    path.write_bytes(case.noise() if case.random() < 0.1 else case.damaged((stored / name).read_bytes()))

    def read() -> object:
        trie, words = arpa.read(path)
        ids_N = np.array([2, *range(len(words) + 4), 3, 2, 1, 3][1:], dtype=np.uint32)
        return asked(trie, ids_N), words

    with_both_engines(read)


def query(case: Case, stored: Path) -> None:
    text = case.choice((case.noise, lambda: case.noise(2000), lambda: case.damaged(TEXT)))()
    model, lines = MODELS.setdefault(stored, Model(stored / "model")), text.split(b"\n")
    for line in (*lines, text, text.decode("utf-8", "replace")):
        scores = list(model.full_scores(line, bos=case.random() < 0.5, eos=case.random() < 0.5))
        assert all(score <= 0 and 1 <= length <= 3 for score, length, _ in scores)
        assert math.isfinite(model.score(line))
    if case.random() < 0.1:
        (stored / "queries").write_bytes(text)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            assert main(["ngram", "query", str(stored / "model"), str(stored / "queries"), "--debug"]) == 0
    trie = ngram_of(lmlab.load(stored / "model")).trie

    def scored() -> object:
        words = scanner(None if engine.compiled(0) else 0, [word.decode() for word in list(model.ids)[2:]], learn=False)
        ids_N = np.concatenate([words.feed(text), words.close()])
        return np.round(trie.logp_array(ids_N), 4).tolist(), ids_N.tolist()

    with_both_engines(scored)


def folder(case: Case, stored: Path) -> None:
    path = case.choice(sorted((stored / case.choice(("model", "packed"))).iterdir()))
    sound = path.read_bytes()
    damaged = case.damaged(sound)
    path.write_bytes(damaged)
    try:
        lm = lmlab.load(path.parent)
        assert path.suffix != ".npy" or damaged == sound, "a damaged array was not refused"
        trie = ngram_of(lm).trie
        with_both_engines(lambda: asked(trie, np.array([2, 4, 5, 3, 2, 7, 1], dtype=np.uint32)))
        lm.score("to be")
    finally:
        path.write_bytes(sound)


MODELS: dict[Path, Model] = {}
KINDS = {"corpus": (corpus, 20_000), "arpa": (arpa_file, 40_000), "query": (query, 30_000), "folder": (folder, 10_000)}


@contextmanager
def named(kind: str, number: int, refused: list[str]) -> Iterator[None]:
    try:
        yield
    except LmlabError as error:
        refused.append(str(error))
    except BaseException as error:
        error.add_note(f'Case("{kind}", {number})')
        raise


def fuzz(kind: str, numbers: range, stored: Path) -> None:
    refused: list[str] = []
    attack = KINDS[kind][0]
    for number in numbers:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        with named(kind, number, refused):
            attack(Case(kind, number), stored)
    faulthandler.cancel_dump_traceback_later()
    assert not [message for message in refused if "\n" in message or len(message) > 500]
    if kind != "query":  # neither all nor nothing, or it would say little
        assert 0.05 < len(refused) / len(numbers) < 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_some_cases(kind: str, stored: Path) -> None:
    fuzz(kind, range(75), stored)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_cases(kind: str, stored: Path) -> None:
    fuzz(kind, range(KINDS[kind][1]), stored)
