from __future__ import annotations

import io
import math
import mmap
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import lmlab
from lmlab.compat.kenlm import Model
from lmlab.errors import ArtifactError, DataError, EmptyDataError, RunExistsError, SettingError, UsageError
from lmlab.facade.estimate import import_arpa, ngram_of, with_trie, words_of
from lmlab.kernels import engine
from lmlab.progress import Silent
from tests.texts import some_text

TEXT = some_text(60)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def estimate(*sources: str | Path, **named: object) -> lmlab.TextModel:
    return lmlab.estimate(*sources, reporter=Silent(), **named)


def test_it_is_the_model_that_train_makes(text: Path) -> None:
    """Ids differ (order of appearance, not of frequency), so what is compared is what every word costs."""
    ours = estimate(text, order=3)
    tokenizer = {"kind": "word", "split": "space", "vocab_size": None}
    trained = lmlab.train(
        str(text), tokenizer=tokenizer, model="ngram", order=3, settings={"data": {"unit": "line", "split": "none"}},
        reporter=Silent(),
    )  # fmt: skip
    assert ngram_of(ours).ngrams == ngram_of(trained).ngrams
    line = TEXT.splitlines()[3] + " unheard of"
    expected = [row["bits"] for row in trained.score(line).rows]
    assert [row["bits"] for row in ours.score(line).rows] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("smoothing", ["kneser-ney", "witten-bell"])
def test_compiled_plain_and_bounded_agree(text: Path, smoothing: str) -> None:
    with engine.only(False):
        plain = ngram_of(estimate(text, order=4, smoothing=smoothing))
    with engine.only(True):
        compiled = ngram_of(estimate(text, order=4, smoothing=smoothing))
    bounded = ngram_of(estimate(text, order=4, smoothing=smoothing, memory="600M"))
    for other in (compiled, bounded):
        for level, expected in zip(other.trie.levels, plain.trie.levels, strict=True):
            assert all(np.array_equal(vars(level)[name], array) for name, array in vars(expected).items())


def test_a_large_model_that_was_saved_lies_in_its_files(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ngram_of(estimate(text, order=3, out=tmp_path / "small"))
    monkeypatch.setattr("lmlab.models.ngram.model._SMALL", 0)
    saved = ngram_of(estimate(text, order=3, out=tmp_path / "large"))
    assert isinstance(saved.trie.levels[1].key_G.base.obj, mmap.mmap)
    for level, expected in zip(saved.trie.levels, kept.trie.levels, strict=True):
        assert all(np.array_equal(vars(level)[name], array) for name, array in vars(expected).items())
    assert not isinstance(kept.trie.levels[1].key_G.base, memoryview)


def test_several_files_and_standard_input(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = TEXT.splitlines(keepends=True)
    halves = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path, half in zip(halves, (lines[:20], lines[20:]), strict=True):
        path.write_text("".join(half), encoding="utf-8")
    whole = ngram_of(estimate(text, order=3))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    for model in (ngram_of(estimate(*halves, order=3)), ngram_of(estimate("-", order=3))):
        assert model.ngrams == whole.ngrams
        assert np.array_equal(model.trie.levels[2].logp_G, whole.trie.levels[2].logp_G)


def test_a_limited_vocabulary(text: Path) -> None:
    lm = estimate(text, order=2, vocab_size=9)
    assert lm.tokenizer.vocab_size == 9
    counts = Counter(TEXT.split())
    kept = lm.tokenizer.tokens[4:]
    assert sorted(counts[word] for word in kept) == sorted(counts.values())[-5:]  # the most frequent; ties either way
    assert len(set(kept)) == 5
    rows = np.exp(ngram_of(lm).trie.rows(ngram_of(lm).trie.begin([[2], [2, 4]])).astype(float))
    assert rows.sum(axis=1) == pytest.approx(1, abs=1e-6)
    with pytest.raises(EmptyDataError, match="min_count=9999"):
        estimate(text, min_count=9999)


def test_a_last_line_without_newline(tmp_path: Path) -> None:
    """Here it ends like any other; lmplz gives it no end."""
    path = tmp_path / "text.txt"
    path.write_bytes(b"a b a\na b")
    ours, theirs = (ngram_of(estimate(path, order=2, compat=compat)) for compat in ("none", "lmplz"))
    assert ours.ngrams[1] == theirs.ngrams[1] + 1  # b </s>


def test_saved_read_and_exchanged(text: Path, tmp_path: Path) -> None:
    lm = estimate(text, order=3, out=tmp_path / "run")
    again = lmlab.load(str(tmp_path / "run"))
    line = TEXT.splitlines()[0]
    assert again.score(line).total == lm.score(line).total
    from lmlab.models.ngram import arpa

    arpa.write(tmp_path / "x.arpa.gz", ngram_of(lm).trie, words_of(lm))
    imported = import_arpa(tmp_path / "x.arpa.gz", out=tmp_path / "imported", reporter=Silent())
    assert ngram_of(imported).ngrams == ngram_of(lm).ngrams
    nats = imported.score(line).total["nats_per_token"]
    assert nats == pytest.approx(lm.score(line).total["nats_per_token"], abs=1e-6)
    log10 = [Model(tmp_path / name).score(line) for name in ("run", "imported", "x.arpa.gz")]
    tokens = len(line.split()) + 1
    assert log10 == pytest.approx([-nats * tokens / math.log(10)] * 3, abs=1e-4)
    with pytest.raises(RunExistsError):
        estimate(text, out=tmp_path / "run")


def test_other_n_grams(text: Path) -> None:
    lm = estimate(text, order=2)
    changed = with_trie(lm, ngram_of(lm).trie, "as it was")
    assert ngram_of(changed).notes[-1] == "as it was"
    assert changed.manifest["results"]["notes"][-1] == "as it was"
    assert "as it was" not in ngram_of(lm).notes
    assert "as it was" not in lm.manifest["results"]["notes"]
    assert changed.score("the cat sat on").rows == lm.score("the cat sat on").rows
    other = with_trie(lm, ngram_of(estimate(text, order=2, smoothing="witten-bell")).trie, "another")
    assert other.score("the cat sat on").rows != lm.score("the cat sat on").rows


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (b"", EmptyDataError, "no tokens"),
        (b" \t ", EmptyDataError, "no tokens"),
        (b"a b\nc \xff d\n", DataError, "text.txt is not UTF-8: byte 0xff at offset 6"),
        (b"a\xc3", DataError, "text.txt is not UTF-8: byte 0xc3 at offset 1"),
    ],
)
def test_what_is_no_text(content: bytes, error: type[Exception], match: str, compiled: bool, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with engine.only(compiled), pytest.raises(error, match=match):
        estimate(path)
    assert os.listdir(tmp_path) == ["text.txt"]


def test_what_is_wrong(text: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        estimate(tmp_path / "nowhere.txt")
    with pytest.raises(UsageError, match="no text is named"):
        estimate()
    with pytest.raises(SettingError, match="smoothing is 'imported'"):
        estimate(text, smoothing="imported")
    with pytest.raises(ArtifactError):
        import_arpa(text, reporter=Silent())
    chars = lmlab.train(text=TEXT, tokenizer="char", model="ngram", reporter=Silent())
    with pytest.raises(UsageError, match="are not words between spaces"):
        words_of(chars)


def test_lines_without_words_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\n\n\na\vb\n")
    for compiled in (False, True):
        with engine.only(compiled):
            assert ngram_of(estimate(path, order=2)).ngrams == (6, 4)  # <s> </s>, <s> a, a b, b </s>


HELD = ["the cat sat", "the dog sat\non the mat", "", "a cat"]


@pytest.mark.parametrize("make", [list, iter, lambda texts: [text.split() for text in texts if "\n" not in text]])
def test_what_a_program_holds_is_estimated_as_its_file(make, tmp_path):
    texts = [text for text in HELD if make is list or make is iter or "\n" not in text]
    (tmp_path / "text.txt").write_text("".join(text + "\n" for text in texts if text), encoding="utf-8")
    file, held = lmlab.estimate(tmp_path / "text.txt", order=3), lmlab.estimate(make(texts), order=3)
    assert held.tokenizer.tokens == file.tokenizer.tokens
    assert list(held.model.items(3)) == list(file.model.items(3))
    if make is not iter:
        limited = [lmlab.estimate(source, order=2, min_count=2) for source in (make(texts), tmp_path / "text.txt")]
        assert limited[0].tokenizer.tokens == limited[1].tokenizer.tokens


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([], EmptyDataError, "no token"),
        (["a", None], DataError, "item 1 is None"),
        ([["a b"]], DataError, "no white space"),
        (3, SettingError, "iterable of texts"),
        (["<s> a"], DataError, "holds the word <s>"),
    ],
)
def test_bad_objects_are_told_in_a_line(source, error, message):
    with pytest.raises(error, match=message):
        lmlab.estimate(source, order=2)


def test_a_generator_is_read_once_only():
    with pytest.raises(UsageError, match="read only once"):
        lmlab.estimate((text for text in HELD), min_count=2)
