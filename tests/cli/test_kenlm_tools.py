"""KenLM's programs as ours: what its own wrote of the same input, n-gram by n-gram, byte by byte, digit by digit."""

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmlab.cli import main
from lmlab.compat import kenlm
from lmlab.models.ngram import listing
from lmlab.models.ngram.interpolate import Union

GOLDEN = Path(__file__).parents[1] / "golden"
BUILT = json.loads((GOLDEN / "binary" / "built.json").read_text())
FILTERED = json.loads((GOLDEN / "filtered.json").read_text())
ODD = json.loads((GOLDEN / "odd_queries.json").read_text())
ODD_TEXT = b"the dog\nx\0y the \x0b dog\x0c\r\n\nof a"
SENTENCES = b"a the\nof dog cat\n\nthe dog\n"
ESTIMATED = {
    "words_o2": ("text", "-o 2"),
    "words_o5": ("text", "--ord 5 --renumber --sort_block 1M"),
    "words_o1": ("text", "-o 1 --discount_fallback"),
    "few_o3": ("few", "-o3 --discount_fallback"),
    "chars_o6": ("chars", "-o 6 --discount_fallback"),
    "words_o4_prune001": ("text", "-o 4 --prune 0 0 1"),
    "words_o3_prune012": ("text", "-o 3 --prune 0 1 2"),
    "lmplz/unigrams0": ("text", "-o 2 --interpolate_unigrams 0"),
    "lmplz/pad5000": ("text", "-o 2 --vocab_pad 5000"),
    "lmplz/prune112": ("text", "-o 3 --prune 1 1 2"),
    "lmplz/collapsed": ("text", "-o 3 --prune 0 1 --collapse_values"),
    "lmplz/allowed": ("text", f"-o 2 --limit_vocab_file {GOLDEN / 'lmplz' / 'allowed.txt'}"),
    "lmplz/fallback": ("few", "-o 3 --discount_fallback 0.3 0.9 --verbose_header"),
}
TOLERANCE = 2e-6


class Piped(io.TextIOWrapper):
    """A standard stream over bytes."""

    def __init__(self, content: bytes = b"") -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")

    def fileno(self) -> int:
        raise io.UnsupportedOperation


@pytest.fixture
def tool(monkeypatch):
    """Runs `lmlab kenlm ...` on bytes; its exit code and the bytes that come out."""

    def run(words: str, text: bytes = b"") -> tuple[int, bytes]:
        out = Piped()
        monkeypatch.setattr(sys, "stdin", Piped(text))
        with contextlib.redirect_stdout(out):
            code = main(["kenlm", *words.split()])
        out.flush()
        return code, out.buffer.getvalue()

    return run


def arpa_of(name: str, folder: Path) -> Path:
    found = GOLDEN / "binary" if name == "gaps" else GOLDEN
    path = folder / f"{Path(name).name}.arpa"
    path.write_bytes(gzip.decompress((found / f"{name}.arpa.gz").read_bytes()))
    return path


def grams(text: bytes) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """The header, and log10 p and of the backoff of each n-gram."""
    lines = text.decode().split("\n")
    columns = [line.split("\t") for line in lines if "\t" in line]
    header = [line for line in lines if line.startswith(("#", "ngram ")) and not line.startswith("# Input")]
    return header, {words: (float(logp), float(more[0]) if more else 0.0) for logp, words, *more in columns}


@pytest.mark.parametrize("name", ESTIMATED)
def test_lmplz_writes_the_n_grams_of_lmplz(tool, name):
    text, options = ESTIMATED[name]
    code, said = tool(f"lmplz {options} --quiet", (GOLDEN / f"{text}.txt").read_bytes())
    assert code == 0
    (header, found), (expected_header, expected) = grams(said), grams(arpa_of_bytes(name))
    assert header == expected_header
    assert found.keys() == expected.keys()
    off = np.abs(np.array([found[gram] for gram in expected]) - np.array(list(expected.values())))
    assert off.max() < TOLERANCE


def arpa_of_bytes(name: str) -> bytes:
    return gzip.decompress((GOLDEN / f"{name}.arpa.gz").read_bytes())


def test_lmplz_reads_and_writes_files_whole_or_not_at_all(tool, tmp_path):
    text, out = tmp_path / "text.gz", tmp_path / "out.arpa"
    text.write_bytes(gzip.compress((GOLDEN / "few.txt").read_bytes()))
    words = f"lmplz -o 3 -S 1G -T {tmp_path}/part --text {text} --arpa {out} --discount_fallback --quiet"
    assert tool(words) == (0, b"")
    before = out.read_bytes()
    assert grams(before)[1].keys() == grams(arpa_of_bytes("few_o3"))[1].keys()
    assert tool(f"{words} --prune 2 1") == (1, b"")
    assert out.read_bytes() == before
    assert tool(f"lmplz -o 3 --text {text} --intermediate {tmp_path}/set --quiet") == (0, b"")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out.arpa", "set.kenlm_intermediate", "text.gz"]


BAD = """
lmplz
lmplz -o 0
lmplz -o x
lmplz -o 2 --prune x
lmplz -o 2 --prune 1 0
lmplz -o 2 --prune 0 0 0
lmplz -o 2 --discount_fallback 2
lmplz -o 2 --vocab_pad 9 --interpolate_unigrams 0
lmplz -o 2 --interpolate_unigrams maybe
lmplz -o 2 -S 1x
lmplz -o 2 --text /nowhere
lmplz -o 2 --limit_vocab_file /nowhere
lmplz -o 2 --discount_fallback --arpa /nowhere/a
lmplz -o 3
build_binary
build_binary /nowhere a
build_binary fast a b
build_binary -q 3 a b
build_binary -b 3 a b
build_binary -r x a b
query
query /nowhere
query -v all x
filter
filter union x
filter union phrase model:x y
filter union words:x y
filter union model:/nowhere /nowhere/out
interpolate -m x
interpolate -m x -w 1
interpolate -w 1
"""


@pytest.mark.parametrize("words", BAD.strip().split("\n"))
def test_bad_input_is_one_line_and_exit_code_1(tool, words, capsys):
    assert tool(words, b"a b c\n")[0] == 1
    *notes, last = capsys.readouterr().err.splitlines()
    assert last.startswith("lmlab: ")
    assert not any(note.startswith(("lmlab: ", "Traceback", " ")) for note in notes)


@pytest.mark.parametrize("case", BUILT)
def test_build_binary_writes_what_build_binary_writes(tool, tmp_path, case):
    name, *options = case.split()
    path, out = arpa_of(name, tmp_path), tmp_path / "out.bin"
    assert tool(" ".join(["build_binary", *options, str(path), str(out)])) == (0, b"")
    assert hashlib.sha256(out.read_bytes()).hexdigest() == BUILT[case]


@pytest.mark.parametrize("options", ["", "-q 6 -b 3 -a 7 trie"])
def test_a_model_of_ours_becomes_a_binary(tool, tmp_path, options, capsys):
    assert main(["ngram", "estimate", str(GOLDEN / "text.txt"), "-o", str(tmp_path / "run"), "--order", "3"]) == 0
    assert tool(f"build_binary {options} {tmp_path}/run {tmp_path}/out.bin")[0] == 0
    mine, built = kenlm.Model(tmp_path / "run"), kenlm.Model(tmp_path / "out.bin")
    scores = [(mine.score(line), built.score(line)) for line in (GOLDEN / "text.txt").read_text().splitlines()[:9]]
    assert [pair[0] for pair in scores] == pytest.approx([pair[1] for pair in scores], abs=1e-4 if not options else 2)
    capsys.readouterr()
    assert tool(f"build_binary {tmp_path}/run")[0] == 0
    sizes = [line.split()[0] for line in capsys.readouterr().err.splitlines()[1:]]
    words = sum(len(word) + 1 for word in built.ids)
    assert options or int(sizes[0].replace(",", "")) == (tmp_path / "out.bin").stat().st_size - words


def test_gaps_that_hash_tables_have_no_room_for_are_named(tool, tmp_path, capsys):
    words = f"build_binary -p 1.0001 {arpa_of('gaps', tmp_path)} {tmp_path}/out.bin"
    assert tool(words)[0] == 1
    assert "raise -p" in capsys.readouterr().err


def test_markers_and_positive_numbers_need_their_options(tool, tmp_path):
    path, out = arpa_of("words_o2", tmp_path), tmp_path / "out.bin"
    text = path.read_text()
    path.write_text(text.replace("\t<s>\t", "\t<t>\t").replace("\t<s> ", "\t<t> "))
    assert tool(f"build_binary {path} {out}")[0] == 1
    assert tool(f"build_binary -s {path} {out}")[0] == 0
    path.write_text(text.replace("\n-", "\n", 1))
    assert tool(f"build_binary {path} {out}")[0] == 1
    assert tool(f"build_binary -i {path} {out}")[0] == 0


@pytest.mark.parametrize("name", ["words_o5", "words_o4_prune001", "words_o3_prune012", "few_o3"])
def test_query_prints_what_query_prints(tool, tmp_path, name):
    path, questions = arpa_of(name, tmp_path), (GOLDEN / "questions.txt").read_bytes()
    assert tool(f"query {path}", questions) == (0, (GOLDEN / f"{name}.query.txt").read_bytes())
    assert tool(f"build_binary {path} {tmp_path}/a.bin")[0] == 0
    assert tool(f"query -b -l lazy {tmp_path}/a.bin", questions)[1] == (GOLDEN / f"{name}.query.txt").read_bytes()


def test_query_without_markers(tool, tmp_path):
    questions = (GOLDEN / "questions.txt").read_bytes()
    assert (
        tool(f"query -n {arpa_of('words_o5', tmp_path)}", questions)[1]
        == (GOLDEN / "words_o5.query_n.txt").read_bytes()
    )


@pytest.mark.parametrize("case", ODD)
def test_query_of_odd_text(tool, tmp_path, case):
    name, _, options = case.partition(" ")
    assert tool(f"query {options} {arpa_of(name, tmp_path)}", ODD_TEXT)[1] == ODD[case].encode("latin-1")


@pytest.mark.parametrize("case", FILTERED)
def test_filter_writes_what_filter_writes(tool, tmp_path, case):
    path, folder = arpa_of("words_o3", tmp_path), tmp_path / "out"
    folder.mkdir()
    assert tool(f"filter {case} threads:2 model:{path} {folder}/f", SENTENCES)[0] == 0
    found = {file.name[1:]: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    assert found == FILTERED[case]
    (tmp_path / "words").write_bytes(SENTENCES)
    assert tool(f"filter {case} vocab:{tmp_path}/words {folder}/g", path.read_bytes())[0] == 0
    for file in folder.glob("f*"):
        assert file.read_bytes() == (folder / file.name.replace("f", "g", 1)).read_bytes()


def test_filter_of_counts(tool, tmp_path):
    counts = b"the dog\t3\nof a b\n\n<s> the\t9\ncat\t1\n"
    (tmp_path / "words").write_bytes(SENTENCES)
    assert tool(f"filter union raw vocab:{tmp_path}/words /dev/stdout", counts) == (
        0,
        b"the dog\t3\n<s> the\t9\ncat\t1\n",
    )


def rows(path: Path, words: list[str], context: str) -> np.ndarray:
    """Log10 p of all words after a sentence's first words."""
    model, state = kenlm.Model(path), kenlm.State()
    model.BeginSentenceWrite(state)
    for word in context.split():
        model.BaseScore(state, word, after := kenlm.State())
        state = after
    return np.array([model.BaseScore(state, word, kenlm.State()) for word in words])


def test_interpolation_of_different_vocabularies_and_orders(tool, tmp_path):
    small, large = arpa_of("few_o3", tmp_path), arpa_of("words_o2", tmp_path)
    union = Union([listing.read(small), listing.read(large)])
    words = [word.decode() for word in union.ids if word != b"<s>"]
    both = tmp_path / "both.arpa"
    both.write_bytes(tool(f"interpolate -m {small} {large} -w 0.4 0.7")[1])
    for context in ("", "the", "of the", "the dog", "a b", "nowhere seen"):
        product = 0.4 * rows(small, words, context) + 0.7 * rows(large, words, context)
        product -= np.log10((10**product).sum())
        assert rows(both, words, context) == pytest.approx(product, abs=2e-6)
    both.write_bytes(tool(f"interpolate --linear -m {small} {large} -w 0.4 0.6")[1])
    known = {word.decode(): word in listing.read(small).words for word in union.ids}
    for context in ("", "the", "of the", "the dog", "a b", "nowhere seen"):
        assert (10 ** rows(both, words, context)).sum() == pytest.approx(1, abs=1e-5)
    few = np.where([known[word] for word in words], 10 ** rows(small, words, ""), 0)
    mixed = 0.4 * few + 0.6 * 10 ** rows(large, words, "")
    listed = {line.split(b"\t")[1] for line in both.read_bytes().split(b"\n") if line.count(b"<s> ") == 1}
    told = np.array([f"<s> {word}".encode() in listed for word in words])
    assert (10 ** rows(both, words, ""))[told] == pytest.approx(mixed[told], rel=1e-5)


@pytest.mark.parametrize("how", ["-w 1e308 1e308", "-w 1e308 -1e308", "-t {text}"])
def test_what_cannot_be_interpolated_is_one_line(tool, tmp_path, capsys, how):
    models = [arpa_of(name, tmp_path) for name in ("few_o3", "words_o2")]
    (tmp_path / "text").write_text("the dog\n")
    if "-t" in how:
        models[0].write_bytes(re.sub(rb"(?m)^[-.0-9]+\t(<unk>|</s>)", rb"-inf\t\1", models[0].read_bytes()))
    code, said = tool(f"interpolate {how.format(text=tmp_path / 'text')} -m {models[0]} {models[1]}")
    assert (code, said) == (1, b"")
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("form", ["", "--linear"])
def test_tuned_weights_are_the_best_nearby(tool, tmp_path, form):
    models = [arpa_of(name, tmp_path) for name in ("few_o3", "words_o2")]
    text = tmp_path / "text"
    lines = [(GOLDEN / f"{name}.txt").read_text().splitlines()[:20] for name in ("few", "few", "text")]
    text.write_text("\n".join(itertools.chain(*lines)))
    code, said = tool(f"interpolate {form} --just_tune -m {models[0]} {models[1]} -t {text}")
    weights = np.array([float(word) for word in said.split()])
    assert (code, len(weights)) == (0, 2)
    union = Union([listing.read(model) for model in models])

    def score(weights_I: np.ndarray) -> float:
        model = union.linear(weights_I.tolist()) if form else union.log_linear(weights_I.tolist())
        with (tmp_path / "a.arpa").open("wb") as file:
            model.write(file)
        scorer = kenlm.Model(tmp_path / "a.arpa")
        return math.fsum(scorer.score(line) for line in text.read_text().splitlines())

    best = score(weights)
    steps = [(0.04, -0.04)] if form else [(0.05, 0), (0, 0.05)]
    assert all(score(weights + sign * np.array(step)) < best for step in steps for sign in (1, -1))


def test_what_lmplz_calls_intermediate_is_interpolated(tool, tmp_path):
    for name in ("few", "text"):
        text = (GOLDEN / f"{name}.txt").read_bytes()
        assert tool(f"lmplz -o 2 --intermediate {tmp_path}/{name} --discount_fallback --quiet", text)[0] == 0
    code, said = tool(f"interpolate -m {tmp_path}/few {tmp_path}/text -w 0.5 0.5 -S 10% -T {tmp_path}")
    assert code == 0
    assert b"ngram 2=" in said


def test_a_pipe_of_three_programs(tmp_path):
    """Standard input and output as processes have them."""

    def run(words: str, text: bytes = b"") -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "lmlab", "kenlm", *words.split()]
        return subprocess.run(command, input=text, cwd=tmp_path, capture_output=True, check=True)

    (tmp_path / "a.arpa").write_bytes(run("lmplz -o 2 --quiet", (GOLDEN / "text.txt").read_bytes()).stdout)
    assert run("build_binary a.arpa a.bin").stderr == b"SUCCESS\n"
    told = run("query a.bin -v summary", b"the dog\n").stdout
    assert told.startswith(b"Perplexity including OOVs:\t")
    assert told.endswith(b"Tokens:\t3\n")
