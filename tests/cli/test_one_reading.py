"""One text, one answer: whatever verb or mode reads it, in whatever file it lies, and KenLM's answer where it has one.

`golden/lines.json.gz` has what KenLM's `query words_o3.arpa` says of each line that `generated` makes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

import lmlab
from lmlab.cli import main
from lmlab.compat.kenlm import Model
from lmlab.corpora import reading
from lmlab.corpora.reading import decode, inflate, lines
from lmlab.facade.estimate import ngram_of
from lmlab.kernels import engine
from lmlab.progress import Silent
from lmlab.vocabulary import SPACES
from tests.cli.calls import call

GOLDEN = Path(__file__).parents[1] / "golden"
SEPARATORS = [  # every control, separator and format character that anybody takes for white space, and some words
    *map(chr, (*range(1, 10), *range(11, 33), *range(0x7F, 0xA1), 0xAD, 0x1680, 0x180E, *range(0x2000, 0x2010))),
    *map(chr, (*range(0x2028, 0x2030), 0x205F, 0x2060, 0x3000, 0xFEFF, 0xFFFD, 0x1F600)),
    *("\r\r", "\t \v", "'", "-", "_", "▁"),
]
MARKERS = ("<s>", "</s>", "<unk>", "<UNK>", "<bos>", "<eos>", "[UNK]", "[PAD]", "<s", "s>", "<s></s>")
PLACES = ("{}", "{} the end", "the {} end of", "at the {}", "the {} {} end", "{}the", "at\v{}\fend")


def generated() -> Iterator[str]:
    """Lines of every separator, every marker in every place, no words, and very many."""
    for separator in SEPARATORS:
        yield f"the{separator}end of"
        yield f"{separator}at the{separator}"
    yield from (place.format(*2 * [marker]) for marker in MARKERS for place in PLACES)
    yield from ("", " ", "\t\v\f\r ", "the", "zebra", "the end\r", "Ünïcödé 漢字 e\u0301")
    yield "the end of " * 200 + "harbour"
    yield "x" * 100_000


KENLM = [tuple(row) for row in json.loads(gzip.decompress((GOLDEN / "lines.json.gz").read_bytes()))]
"""Of each line: log10, unknown words, tokens."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as an ARPA file and as a directory, and the lines."""
    folder = tmp_path_factory.mktemp("reading")
    (folder / "m.arpa").write_bytes(gzip.decompress((GOLDEN / "words_o3.arpa.gz").read_bytes()))
    (folder / "lines").write_bytes("".join(f"{line}\n" for line in generated()).encode())
    assert main(["ngram", "import", str(folder / "m.arpa"), "-o", str(folder / "m"), "--quiet"]) == 0
    return folder


def near(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=2e-5, abs_tol=2e-5)  # KenLM adds up in float32


def test_there_are_lines_enough() -> None:
    assert len(KENLM) == len(list(generated())) >= 200


def sentences(out: str) -> list[tuple[float, int]]:
    found = re.findall(r"Total: (\S+) OOV: (\d+)$", out, re.MULTILINE)
    return [(float(total), int(unknown)) for total, unknown in found]


def test_every_mode_of_query_says_of_every_line_what_kenlm_says(folder: Path, capsys: Any) -> None:
    answers: dict[str, list[tuple[float, int]]] = {}
    for name in ("m", "m.arpa"):
        query = ("ngram", "query", folder / name, folder / "lines")
        answers[f"{name}, all"] = sentences(call(capsys, *query).out)
        answers[f"{name}, sentences"] = sentences(call(capsys, *query, "-v", "sentence").out)
        for shown in ((), ("-v", "sentence", "-v", "word")):
            said = call(capsys, *query, "--json", *shown).json
            answers[f"{name}, json {shown}"] = [(each["log10"], each["oovs"]) for each in said["sentences"]]
            words = [
                (sum(word["log10"] for word in each["words"]), sum(not word["id"] for word in each["words"]))
                for each in said["sentences"]
            ]
            answers[f"{name}, words {shown}"] = words
        model = Model(folder / name)
        scores = [list(model.full_scores(line)) for line in generated()]
        answers[f"{name}, kenlm module"] = [
            (sum(logp for logp, _, _ in each), sum(oov for _, _, oov in each)) for each in scores
        ]
        answers[f"{name}, kenlm module, score"] = [
            (model.score(line.encode()), unknown) for line, (_, unknown, _) in zip(generated(), KENLM, strict=True)
        ]
    for how, answer in answers.items():
        for line, (log10, unknown, _), (ours, our_unknown) in zip(generated(), KENLM, answer, strict=True):
            assert near(ours, log10), (how, line)
            assert our_unknown == unknown, (how, line)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_whole_text_is_the_sum_of_its_lines(folder: Path, capsys: Any, compiled: bool, tmp_path: Path) -> None:
    """Which is read in another way; each line is compared by itself, so that no two faults hide each other."""
    query = ("ngram", "query", folder / "m")
    alone = [] if compiled else [*zip(generated(), KENLM, strict=True)]
    alone = [(line, told) for line, told in alone if line[:1] != "\ufeff"]  # a mark, where a text begins with it
    with engine.only(compiled):
        for line, (log10, unknown, tokens) in alone:
            (tmp_path / "line").write_bytes(f"{line}\n".encode())
            said = call(capsys, *query, tmp_path / "line", "-v", "summary", "--json").json
            assert (said["oovs"], said["tokens"]) == (unknown, tokens), line
            assert math.isclose(said["perplexity_with_oovs"], 10 ** (-log10 / tokens), rel_tol=2e-5), line
        by_line = call(capsys, *query, folder / "lines", "--json").json
        whole = call(capsys, *query, folder / "lines", "--json", "-v", "summary").json
        text = dict(zip(whole, call(capsys, *query, folder / "lines", "-v", "summary").out.splitlines(), strict=True))
    log10, unknown, tokens = (sum(column) for column in zip(*KENLM, strict=True))
    for name, value in whole.items():
        assert math.isclose(by_line[name], value, rel_tol=1e-6), name
        assert math.isclose(float(text[name].split("\t")[1]), value, rel_tol=1e-6), name
    assert (whole["oovs"], whole["tokens"]) == (unknown, tokens)
    assert math.isclose(whole["perplexity_with_oovs"], 10 ** (-log10 / tokens), rel_tol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_that_learned_a_marker_as_a_word(compiled: bool, tmp_path: Path, capsys: Any) -> None:
    tokenizer = {"kind": "word", "split": "space", "vocab_size": None}
    data = {"data": {"unit": "line", "split": "none"}}
    text = "<s> a b\nb a </s> c\nc <s> a\n" * 3
    lmlab.train(text=text, tokenizer=tokenizer, model="ngram", order=2, settings=data, reporter=Silent()).save(
        tmp_path / "m"
    )
    (tmp_path / "text").write_text(text + "d </s> b\n")
    query = ("ngram", "query", tmp_path / "m", tmp_path / "text", "--json")
    with engine.only(compiled):
        by_line, whole = call(capsys, *query).json, call(capsys, *query, "-v", "summary").json
    assert {name: by_line[name] for name in whole} == pytest.approx(whole, rel=1e-6)


def test_without_marks_too(folder: Path, capsys: Any) -> None:
    query, model = ("ngram", "query", folder / "m", folder / "lines", "-n"), Model(folder / "m")
    said = call(capsys, *query, "--json").json
    shown = sentences(call(capsys, *query).out)
    for line, each, one in zip(generated(), said["sentences"], shown, strict=True):
        assert near(each["log10"], model.score(line, bos=False, eos=False)), line
        assert near(each["log10"], one[0]), line
        assert len(each["words"]) == len(re.findall(f"[^{SPACES}]+", line)), line


# -- learning ---------------------------------------------------------------------------------------------------------


def words_of(line: str) -> list[str]:
    return re.findall(f"[^{SPACES}]+", line)


def plain(line: str) -> bool:
    """Whether nothing in a line is spelled like a special of KenLM's or of ours."""
    return not set(words_of(line)) & {"<s>", "</s>", "<unk>", "<bos>", "<eos>", "[UNK]", "[PAD]"}


def estimated(*paths: Path, **named: Any) -> Any:
    return lmlab.estimate(*paths, order=2, reporter=Silent(), **named)


def test_estimate_and_train_count_the_same_words(tmp_path: Path) -> None:
    """But for blank lines, which are sentences to estimate as to lmplz, and none to train."""
    kept = [line for line in generated() if plain(line) and words_of(line)]
    path = tmp_path / "text"
    path.write_bytes("".join(f"{line}\n" for line in kept).encode())
    words = Counter(word for line in kept for word in words_of(line))
    pairs = {pair for line in kept for pair in itertools.pairwise(["<s>", *words_of(line), "</s>"])}
    tokenizer = {"kind": "word", "split": "space", "vocab_size": None}
    data = {"data": {"unit": "line", "split": "none"}}
    models = [
        lmlab.train(str(path), tokenizer=tokenizer, model="ngram", order=2, settings=data, reporter=Silent()),
        estimated(path, memory="600M"),
    ]
    for compiled in (False, True):
        with engine.only(compiled):
            models.append(estimated(path))
    for lm in models:
        assert set(lm.tokenizer.tokens[4:]) == set(words)
        assert ngram_of(lm).ngrams[1] == len(pairs)
        assert lm.tokenizer.tokenise("".join(f"{line}\n" for line in kept)) == [
            w for line in kept for w in words_of(line)
        ]


@pytest.mark.parametrize("marker", ["<s>", "</s>", "<unk>"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("compiled", [False, True])
def test_what_arpa_files_reserve_is_refused_at_once_or_skipped(
    marker: str, place: str, compiled: bool, tmp_path: Path, capsys: Any
) -> None:
    line, path = place.format(*2 * [marker]), tmp_path / "text"
    path.write_bytes(f"the end\nof\v\n{line}\nat the end".encode())
    with engine.only(compiled):
        called = call(capsys, "ngram", "estimate", path, "-o", tmp_path / "m", "--order", "2", "--quiet")
        if marker not in words_of(line):
            assert called.code == 0
            return
        assert called.code == 1
        assert f"text:3 holds the word {marker}" in called.err
        assert "--skip-symbols" in called.err
        assert called.err.count("\n") == 1
        assert not (tmp_path / "m").exists()
        path.with_name("without").write_bytes(f"the end\nof\v\n{line.replace(marker, ' ')}\nat the end".encode())
        skipped, without = estimated(path, skip_symbols=True), estimated(path.with_name("without"))
    assert skipped.tokenizer.tokens == without.tokenizer.tokens
    assert ngram_of(skipped).ngrams == ngram_of(without).ngrams


# -- files ------------------------------------------------------------------------------------------------------------

TEXT = "the end of the harbour\nat the naïve end\n\nof the 漢字 harbour\n" * 20
PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress}
SAME = {
    "marked.txt": "\ufeff" + TEXT,
    "dos.txt": TEXT.replace("\n", "\r\n"),
    "marked dos": "\ufeff" + TEXT.replace("\n", "\r\n"),
    "only.gz": TEXT,
    "ünï.txt": TEXT,
}
WRONG = {
    "wide.txt": (TEXT.encode("utf-16"), "UTF-16"),
    "wide-be": ("\ufeff漢字".encode("utf-16-be"), "UTF-16"),
    "wide-unmarked": (TEXT.encode("utf-16-le"), "is binary (NUL byte at offset 1)"),
    "latin.txt": (
        TEXT.replace("漢字", "").encode("latin-1"),
        "is not UTF-8: byte 0xef at offset 32: convert it with iconv",
    ),
    "nul.txt": (b"a\0b", "is binary (NUL byte at offset 1)"),
    "late-nul.txt": (b"a " * 6000 + b"\0b", "has a NUL byte at offset 12000"),
    "cut.txt": (gzip.compress(TEXT.encode())[:-9], "is cut off"),
    "behind.txt": (bz2.compress(TEXT.encode()) + b"more", "is damaged"),
    "bad.zst": (zstandard.compress(b"\xff"), "is not UTF-8: byte 0xff at offset 0"),
    "nowhere": (None, "cannot be read"),
}


def files() -> dict[str, bytes]:
    """The same text in every file that holds it."""
    data = {name: text.encode() for name, text in SAME.items()}
    for ending, pack in PACKED.items():
        data[f"a.{ending}"] = pack(TEXT.encode())
        data[f"b.{ending}.txt"] = pack(TEXT[:100].encode()) + pack(TEXT[100:].encode())  # two streams, no honest name
        data[f"marked.{ending}"] = pack(("\ufeff" + TEXT).encode())
    return data


def readers(model: Path, path: Path) -> dict[str, list[Any]]:
    """Every call that reads a text."""
    query = ["ngram", "query", model, path, "--json"]
    return {
        "query, whole": [*query, "-v", "summary"],
        "query, lines": query,
        "query, bare": [*query, "-n"],
        "score": ["score", model, path, "--json"],
        "eval": ["eval", model, "--on", path, "--json", "--quiet"],
        "estimate": ["ngram", "estimate", path, "--order", "2", "--json", "--quiet", "-o", path.parent / "new"],
    }


def figures(said: Any) -> Any:
    """What does not depend on the file's name or on the clock."""
    if isinstance(said, dict):
        kept = {key: value for key, value in said.items() if key not in ("protocol", "run", "train_seconds")}
        return {
            key: figures(value) for key, value in kept.items() if key not in ("chars", "bytes", "data_sha256", "id")
        }
    return [figures(each) for each in said] if isinstance(said, list) else said


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the text."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "plain.txt").write_bytes(TEXT.encode())
    lmlab.estimate(folder / "plain.txt", order=2, out=folder / "m", reporter=Silent())
    return folder


def asked(capsys: Any, model: Path, path: Path, how: str) -> Any:
    called = call(capsys, *readers(model, path)[how])
    assert called.code == 0, (path, how, called.err)
    if how == "estimate":
        shutil.rmtree(path.parent / "new")
    return figures(called.json)


@pytest.mark.parametrize("how", readers(Path(), Path()))
def test_one_text_in_every_file(how: str, small: Path, tmp_path: Path, capsys: Any) -> None:
    expected = asked(capsys, small / "m", small / "plain.txt", how)
    for name, data in files().items():
        path = tmp_path / name
        path.write_bytes(data)
        assert asked(capsys, small / "m", path, how) == expected, name


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_text_is_refused_alike(name: str, small: Path, tmp_path: Path, capsys: Any) -> None:
    data, problem = WRONG[name]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    for how, words in readers(small / "m", tmp_path / name).items():
        called = call(capsys, *words)
        assert called.code in (1, 2), how
        assert called.err.count("\n") == 1
        assert name in called.err, (how, called.err)
        assert data is None or problem in called.err, (how, called.err)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", readers(Path(), Path()))
def test_bytes_that_are_no_text_may_be_replaced_everywhere(how: str, small: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "latin"
    answers = []
    for data in (b"x" * 9000 + b" the \xef end \0 of\n", ("x" * 9000 + " the \ufffd end \ufffd of\n").encode()):
        path.write_bytes(data)
        called = call(capsys, *readers(small / "m", path)[how], "--errors", "replace")
        assert called.code == 0, called.err
        answers.append(figures(called.json))
        if how == "estimate":
            shutil.rmtree(tmp_path / "new")
    assert answers[0] == answers[1]


def test_standard_input_is_read_alike(small: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = asked(capsys, small / "m", small / "plain.txt", "query, whole")
    for data in (TEXT.encode(), gzip.compress(("\ufeff" + TEXT).encode())):
        for how in ("-v", "summary"), ():
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
            said = call(capsys, "ngram", "query", small / "m", "--json", *how).json
            assert {name: said[name] for name in ("oovs", "tokens")} == {
                name: expected[name] for name in ("oovs", "tokens")
            }
    monkeypatch.setattr("sys.stdin", None)
    called = call(capsys, "ngram", "query", small / "m")
    assert (called.code, called.err) == (1, "lmlab: standard input is closed: name a file, or pipe a text in\n")


def test_an_answer_comes_before_the_next_line_is_typed(small: Path) -> None:
    asked = iter([b"a\n", b"the end\n"])
    texts = decode(inflate(asked, "-"), "-", "strict")
    assert next(lines(texts, "-")) == "a"
    assert next(asked) == b"the end\n"


def test_a_stream_is_not_read_twice(capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    called = call(capsys, "ngram", "estimate", "-", "-o", tmp_path / "m", "--min-count", "2")
    assert (called.code, "a stream can be read only once" in called.err) == (2, True)


@pytest.mark.parametrize("how", readers(Path(), Path()))
def test_what_unpacks_to_very_much_is_bounded(
    how: str, small: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word without end; `eval` reads it in pieces."""
    monkeypatch.setattr(reading, "LONGEST", 200_000)
    for pack in PACKED.values():
        (tmp_path / "bomb").write_bytes(pack(b"x" * 3_000_000))
        called = call(capsys, *readers(small / "m", tmp_path / "bomb")[how])
        assert called.code == (0 if how == "eval" else 1)
        if called.code:
            told = r"bomb has (a (word|line|text) of more than 200,000 bytes|3,000,000 characters, but 200,000 at most)"
            assert re.search(told, called.err), called.err
            assert called.err.count("\n") == 1
        (tmp_path / "bomb").write_bytes(pack(bytes(30_000_000)))
        assert "is binary (NUL byte at offset 0)" in call(capsys, *readers(small / "m", tmp_path / "bomb")[how]).err


_NAMES = """
import sys
from pathlib import Path
from lmlab.cli import main
from lmlab.seeing.curves import draw_curves
name = sys.argv[1]
for words in (
    ["ngram", "estimate", name, "-o", name + "-m", "--order", "2", "--quiet"],
    ["ngram", "query", name + "-m", name, "-v", "summary"],
    ["ngram", "arpa", name + "-m", name + ".arpa", "--quiet"],
    ["ngram", "query", name + ".arpa", name, "--json"],
    ["train", name, "--order", "2", "-o", name + "-t", "--split", "0.8,0.1,0.1", "--quiet"],
    ["eval", name + "-t", "--on", name, "--json", "--quiet"],
    ["score", name + "-t", name],
    ["info", name + "-t"],
):
    if main(words):
        sys.exit(f"{words} failed")
draw_curves({name: {"train": [(1, 2)], "valid": [(1, 2)]}}, Path("curve.png"))
"""


def test_files_may_have_any_name_in_any_locale(tmp_path: Path) -> None:
    """Also one that is no UTF-8; a machine without locales is asked for nothing but bytes."""
    name = "ünï $x$ \udcff.txt"
    (tmp_path / name).write_text(TEXT, encoding="utf-8")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONPATH": str(Path(lmlab.__file__).parents[1])}
    command = [sys.executable, "-c", _NAMES, name]
    called = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert called.returncode == 0, called.stderr[-2000:]
