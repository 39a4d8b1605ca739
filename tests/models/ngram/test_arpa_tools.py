"""ARPA files as tools write them: read, and scored as KenLM scores them, or refused in a line that says why."""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest

from lmlab.cli import main
from lmlab.compat.kenlm import Model, State, read
from lmlab.errors import ArtifactError, SettingError, UsageError
from lmlab.facade.estimate import import_arpa
from lmlab.kernels import engine
from lmlab.kernels.ngram.layout import MAX_ORDER
from lmlab.models.ngram import arpa
from lmlab.progress import Silent

from .arpa_files import GOLDEN, KEPT, WAYS, File, Gram, ask_kenlm, made, sentences

MANY = 300


def answers(file: File, path: Path, questions: list[tuple[Gram, bool, bool]]) -> list[list[float]] | str:
    """What we say, or the refusal."""
    path.write_bytes(file.data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arpa, "read", functools.partial(arpa.read, **file.options))
        try:
            model = Model(path)
        except ArtifactError as error:
            return str(error)
    return [[logp for logp, _, _ in model.full_scores(_utf8(words), bos=bos, eos=eos)] for words, bos, eos in questions]


def _utf8(words: Gram) -> bytes:
    return b" ".join(words).decode("utf-8", "replace").encode()


def test_all_ways_are_gone() -> None:
    assert {way for number in range(MANY) for way in made(number).ways} == set(WAYS)


@pytest.mark.parametrize("compiled", [False, True])
def test_files_of_tools(tmp_path: Path, compiled: bool) -> None:
    """Read as what they mean, worked out by hand, or refused for what is wrong with them."""
    for number in range(MANY):
        file, told = made(number), f"file {number}: {made(number).ways}"
        questions = sentences(file, random.Random(number))
        with engine.only(compiled):
            said = answers(file, tmp_path / "x.arpa", questions)
        if file.refused:
            assert isinstance(said, str), told
            assert re.search(file.refused, said), told
            assert "\n" not in said, told
            assert len(said) < 400, told
        else:
            assert not isinstance(said, str), f"{told}: {said}"
            for (words, bos, eos), logps in zip(questions, said, strict=True):
                assert logps == pytest.approx(file.scores(words, bos, eos), abs=1e-5, rel=1e-6), told


def check(file: File, theirs: list[list[float]] | None, path: Path, number: int) -> bool:
    """Compare with what KenLM said; whether there was something to compare."""
    said = answers(file, path, sentences(file, random.Random(number)))
    if theirs is None or isinstance(said, str):
        return False
    for ours, their in zip(said, theirs, strict=True):
        assert ours == pytest.approx(their, abs=1e-5, rel=1e-6), f"file {number}: {file.ways}"
    return True


def test_a_model_directory_keeps_what_the_file_said(tmp_path: Path) -> None:
    """Imported, and written again: the same scores, `<s>` as a word too."""
    for number in range(0, MANY, 12):
        file = made(number)
        if file.refused:
            continue
        questions = sentences(file, random.Random(number))
        said = answers(file, tmp_path / "x.arpa", questions)
        import_arpa(tmp_path / "x.arpa", out=tmp_path / str(number), reporter=Silent(), **file.options)
        trie, words = read(tmp_path / str(number))
        arpa.write(tmp_path / "again.arpa", trie, words)
        for path in (tmp_path / str(number), tmp_path / "again.arpa"):
            model = Model(path)
            for (sentence, bos, eos), expected in zip(questions, said, strict=True):
                again = [max(logp, -99) for logp, _, _ in model.full_scores(_utf8(sentence), bos=bos, eos=eos)]
                assert again == pytest.approx([max(float(logp), -99) for logp in expected], abs=1e-5, rel=1e-6), number


SRILM = b"""\\data\\
ngram 1=4
ngram 2=1

\\1-grams:
-99 <s> -0.5
-1 </s>
-0.5 a -0.25
-0.75 b

\\2-grams:
-0.125 <s> a

\\end\\
"""


def test_a_word_spelled_as_the_beginning_scores_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "srilm.arpa").write_bytes(SRILM)
    assert Model(tmp_path / "srilm.arpa").score("<s> a b </s>", bos=False, eos=False) == pytest.approx(-101.125)
    (tmp_path / "srilm.arpa").write_bytes(SRILM.replace(b"-99", b"0"))
    assert Model(tmp_path / "srilm.arpa").score("<s> a b </s>", bos=False, eos=False) == pytest.approx(-2.125)


def test_without_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without `<s>` or `</s>` is read; what asks for them is told how not to."""
    bare = SRILM.replace(b"-99 <s> -0.5\n-1 </s>\n", b"").replace(b"1=4", b"1=2").replace(b"<s> a", b"b a")
    path, text = tmp_path / "bare.arpa", tmp_path / "text"
    path.write_bytes(bare)
    text.write_bytes(b"b a\n")
    model = Model(path)
    assert model.score("b a </s>", bos=False, eos=False) == pytest.approx(-0.75 - 0.125 - 0.25 - 100)
    assert "</s>" not in model
    for call in (model.score, model.full_scores, lambda text: model.BeginSentenceWrite(State())):
        with pytest.raises(UsageError, match=r"has no <s>.*bos=False"):
            call("a")
    with pytest.raises(UsageError, match=r"has no </s>: .*`ngram query -n`"):
        model.score("a", bos=False)
    for show in ("sentence", "summary"):
        assert main(["ngram", "query", str(path), str(text), "-v", show]) == 2
        assert "the model has no <s> and no </s>: score without: `ngram query -n`" in capsys.readouterr().err
        assert main(["ngram", "query", str(path), str(text), "-v", show, "-n"]) == 0


def test_what_would_take_memory_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.arpa"
    orders = b"\\data\\\n" + b"".join(b"ngram %d=0\n" % k for k in range(1, 100_001))
    for data, said in (
        (orders, f"it promises n-grams of more than {MAX_ORDER} words"),
        (SRILM.replace(b"1=4", b"1=4294967295"), "it promises more n-grams than the file has room for"),
        (gzip.compress(SRILM.replace(b"1=4", b"1=9999999")), "it promises more n-grams than the file has room for"),
        (gzip.compress(bytes(1 << 25)), "it has more than 16,777,216 bytes"),
        (gzip.compress(SRILM + bytes(1 << 25)), ""),  # nobody reads what follows
        (gzip.compress(SRILM.replace(b"-1 </s>", b"-1 </s>" + bytes(1 << 25))), "it has more than 16,777,216 bytes"),
        (gzip.compress(b"a\n" * (1 << 22)), "there is no \\data\\ among the first 10,000 lines"),
        (gzip.compress(SRILM.replace(b"\\2-grams", b"\n" * (1 << 22) + b"\\2-grams")), ""),
    ):
        path.write_bytes(data)
        if said:
            with pytest.raises(ArtifactError, match=re.escape(said)):
                arpa.read(path)
        else:
            arpa.read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match="no regular file"):
        arpa.read(path)


def test_words_that_only_replacing_makes_the_same(tmp_path: Path) -> None:
    path, latin = tmp_path / "x.arpa", SRILM.replace(b" a", b" \xe9")
    path.write_bytes(latin)
    assert arpa.read(path, errors="replace")[1] == ["\ufffd".encode(), b"b"]
    path.write_bytes(latin.replace(b" b", b" \xe8"))
    with pytest.raises(ArtifactError, match="differ only in bytes that are no UTF-8: convert it with iconv"):
        arpa.read(path, errors="replace")
    with pytest.raises(SettingError, match="errors is 'ignore', but must be strict or replace"):
        arpa.read(path, errors="ignore")


def test_import_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "x.arpa", str(tmp_path / "m")
    path.write_bytes(SRILM.replace(b"-0.125", b"0.125"))
    assert main(["ngram", "import", str(path), "-o", out]) == 1
    assert (
        "line 12: '0.125' is no log10 probability, a number up to 0: `lmlab ngram import --pos"
        in capsys.readouterr().err
    )
    assert main(["ngram", "import", str(path), "-o", out, "--positive", "zero", "--quiet"]) == 0
    assert Model(out).score("a", eos=False) == 0


def test_kenlm_said_the_same(tmp_path: Path) -> None:
    """What kenlm 0.3.0 said of these files; `tests/golden/README.md` tells how it was asked."""
    golden = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    compared = [check(made(number), golden[number], tmp_path / "x.arpa", number) for number in range(KEPT)]
    assert sum(compared) > KEPT / 4


def test_kenlm_says_the_same(tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="kenlm is not installed")
    if not shutil.which("build_binary"):
        pytest.skip("kenlm's build_binary is not on the path")
    for number in range(MANY):
        file = made(number)
        check(file, ask_kenlm(file, sentences(file, random.Random(number))), tmp_path / "x.arpa", number)
