from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.errors import ArtifactError, UsageError
from lmlab.kernels import engine
from lmlab.models.ngram import Ngram, arpa
from lmlab.models.ngram.smoothing import SMOOTHINGS
from lmlab.models.ngram.trie import Trie
from lmlab.vocabulary import BOS, EOS, PAD, UNK

from .reference import lay

DATA = Path(os.environ.get("LMLAB_DATA", "/nowhere")) / "kenlm"
GOLDEN = Path(__file__).parents[2] / "golden"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="LMLAB_DATA does not hold the lmplz outputs")
WORDS = [b"a", b"b", "\xe4\u2028".encode(), b"\\d", b"-1"]
TEXT = st.lists(st.lists(st.integers(4, 3 + len(WORDS)), max_size=9), min_size=1, max_size=6)
WRITTEN = [smoothing for smoothing in SMOOTHINGS if smoothing != "stupid-backoff"]
ENGINES = pytest.mark.parametrize("compiled", [False, True])


def estimate(train: list[list[int]], order: int, smoothing: str = "kneser-ney") -> Trie:
    return Ngram.estimate(Ngram.Settings(order, smoothing), 4 + len(WORDS), lay(train)).trie


def same(one: Trie, other: Trie, never: float = -np.inf) -> None:
    """Compare two tries; `never` is what the second has in the place of log-probabilities of -inf."""
    assert one.order == other.order
    assert one.bos_logp == other.bos_logp
    for k, (a, b) in enumerate(zip(one.levels, other.levels, strict=True)):
        for name in ("key_G", "suffix_G", "logp_G", "backoff_G"):
            x, y = getattr(a, name), getattr(b, name)
            assert x.dtype == y.dtype
            if x.dtype == np.float32:
                special = (PAD, BOS) if k == 0 and name == "logp_G" else ()
                x = np.where(np.isinf(x) & ~np.isin(np.arange(len(x)), special), np.float32(never), x)
            assert np.array_equal(x, y), name


def read(path: Path, text: bytes, compiled: bool = False) -> tuple[Trie, list[bytes]]:
    path.write_bytes(text)
    with engine.only(compiled):
        return arpa.read(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arpa") / "model.arpa"


# ---- there and back


@pytest.mark.parametrize("smoothing", WRITTEN)
@settings(deadline=None, max_examples=30)
@given(train=TEXT, order=st.integers(1, 8))
def test_what_is_written_is_read(file: Path, train: list[list[int]], order: int, smoothing: str) -> None:
    trie = estimate(train, order, smoothing)
    texts = []
    for compiled in (False, True):
        with engine.only(compiled):
            arpa.write(file, trie, WORDS)
            back, words = arpa.read(file)
        same(trie, back, never=-99 * np.log(10))
        assert words == WORDS
        texts.append(file.read_bytes())
    assert texts[0] == texts[1]


@ENGINES
def test_every_float_survives(file: Path, compiled: bool) -> None:
    rng = np.random.default_rng(0)
    logs = -np.exp(rng.uniform(-60, 5, 20_000)).astype(np.float32)
    trie = estimate([[4]], 1)
    level = trie.levels[0]
    words = [b"%d" % word for word in range(len(logs))]
    key_V = np.arange(len(logs) + 4, dtype=np.uint64)
    level = type(level)(key_V, level.suffix_G, np.concatenate([level.logp_G[:4], logs]), level.backoff_G)
    with engine.only(compiled):
        arpa.write(file, Trie((level,), 0.0), words)
        back, _ = arpa.read(file)
    assert np.array_equal(back.levels[0].logp_G[4:], logs)


UNIGRAMS = ["-99\t<unk>\t0", "0\t<s>\t-99", "-0.39794002\t</s>\t0", "-0.39794002\ta\t-99"]


@ENGINES
def test_the_text_is_that_of_the_format(file: Path, compiled: bool) -> None:
    with engine.only(compiled):
        arpa.write(file, estimate([[4, 5], [4]], 2, "mle"), WORDS)
    lines = file.read_text(encoding="utf-8").split("\n")
    assert lines[:9] == ["\\data\\", "ngram 1=8", "ngram 2=4", "", "\\1-grams:", *UNIGRAMS]
    assert lines[15:] == ["0\t<s> a", "-0.30103\ta </s>", "-0.30103\ta b", "0\tb </s>", "", "\\end\\", ""]


def test_compressed(file: Path) -> None:
    trie = estimate([[4, 5], [6]], 3)
    path = file.with_name("model.arpa.gz")
    arpa.write(path, trie, WORDS)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    same(arpa.read(path)[0], trie)
    same(arpa.read(path.rename(file))[0], trie)


@pytest.mark.parametrize("word", [b"<s>", b"</s>", b"<unk>", b"<UNK>", b"a b", b"\t", b"", b"\0", b"x\n"])
def test_words_that_cannot_be_written(file: Path, word: bytes) -> None:
    with pytest.raises(UsageError, match="cannot be written as ARPA"):
        arpa.write(file.with_name("not.arpa"), estimate([[4]], 2), [*WORDS[:-1], word])
    assert not file.with_name("not.arpa").exists()


def test_models_that_cannot_be_written(file: Path) -> None:
    with pytest.raises(UsageError, match="stupid backoff"):
        arpa.write(file, estimate([[4]], 2, "stupid-backoff"), WORDS)
    with pytest.raises(UsageError, match="spelled the same"):
        arpa.write(file, estimate([[4]], 2), [*WORDS[:-1], b"a"])
    with pytest.raises(UsageError, match="4 spellings are not those of 9 ids"):
        arpa.write(file, estimate([[4]], 2), WORDS[:-1])


# ---- others' files


@ENGINES
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.arpa.gz")), ids=lambda path: path.name)
def test_files_of_lmplz(file: Path, path: Path, compiled: bool) -> None:
    check_file(file, path, compiled)


@needs_data
@pytest.mark.parametrize("name", ["words_o4_prune001", "chars_o6"])
def test_large_files_of_lmplz(file: Path, name: str) -> None:
    check_file(file, DATA / f"{name}.arpa.gz", compiled=True)


def check_file(file: Path, path: Path, compiled: bool) -> None:
    """Read a file, find every n-gram of it and no other, with its numbers; write it, and read that back."""
    with engine.only(compiled):
        trie, words = arpa.read(path)
        arpa.write(file, trie, words)
        same(arpa.read(file)[0], trie)
    ids = {word.decode(): id for id, word in enumerate([b"", b"<unk>", b"<s>", b"</s>", *words])}
    sections = gzip.decompress(path.read_bytes()).decode().split("-grams:\n")[1:]
    for k, (section, level) in enumerate(zip(sections, trie.levels, strict=True), 1):
        columns = [line.split("\t") for line in section.split("\n") if "\t" in line]
        gram_GK = np.array([[ids[word] for word in row[1].split(" ")] for row in columns])
        node_G = np.zeros(len(columns), dtype=np.int64)
        for shorter, word_G in zip(trie.levels, gram_GK.T, strict=False):
            node_G = shorter.find(node_G, word_G)
        assert sorted(node_G) == list(range(k == 1, len(level.key_G)))  # all but [PAD]
        off_G = level.logp_G[node_G] / np.log(10) - [float(row[0]) for row in columns]
        assert np.abs(off_G[gram_GK[:, -1] != BOS]).max() < 1e-6
        if k < trie.order:
            off_G = level.backoff_G[node_G] / np.log(10) - [float(row[2]) for row in columns]
            assert np.abs(off_G).max() < 1e-6


@needs_data
def test_scores_are_those_of_the_estimate() -> None:
    trie, words = arpa.read(DATA / "words_o3.arpa.gz")
    ids = {word: id for id, word in enumerate(words, 4)}
    text = (DATA.parent / "tinyshakespeare.txt").read_bytes().removesuffix(b"\n").split(b"\n")
    ids_N = lay([[ids[word] for word in line.split()] for line in text])
    model = Ngram.estimate(Ngram.Settings(3), len(words) + 4, ids_N)
    assert trie.logp_array(ids_N) == pytest.approx(model.logp_array(ids_N), abs=5e-6)


SRILM = rb"""
made by hand

\data\
ngram 1=5
ngram  2= 2
ngram 3=2

\1-grams:
-99 <s> -0.25
-1.5e0 </s>
-inf a -0.5
-.5 b 1e-2
-7.5E-1 <UNK>

\2-grams:
-0.25 <s> a -.125
-2 a b

\3-grams:
-0.125 b a b
-0.5 a b a


\end\
after it, anything
"""


@ENGINES
@pytest.mark.parametrize("change", [(b"", b""), (b" ", b"\t"), (b"\n", b"\r\n")])
def test_missing_contexts_and_suffixes_are_scored_as_the_file_says(
    file: Path, compiled: bool, change: tuple[bytes, bytes]
) -> None:
    text = SRILM.replace(*change) if change[1] != b"\t" else SRILM.replace(b" ", b"\t").replace(b"ngram\t", b"ngram ")
    trie, words = read(file, text, compiled)
    a, b = 4, 5
    assert words == [b"a", b"b"]
    assert len(trie.levels[1].key_G) == 3  # b a was added
    logp = trie.logp_array(np.array([BOS, b, a, b, a, EOS, BOS, a, UNK, BOS, a, b, b], dtype=np.uint32)) / np.log(10)
    from_start = -0.25 - 0.5  # after <s>, which does not know b
    assert logp.tolist() == pytest.approx(
        [
            0,
            from_start,
            -np.inf,
            -0.125,
            -0.5,
            -0.5 - 1.5,
            0,
            -0.25,
            -0.125 - 0.5 - 0.75,
            0,
            -0.25,
            -2 - 0.125,
            0.01 - 0.5,
        ],
        abs=1e-6,
    )


@ENGINES
def test_longer_gaps_are_filled(file: Path, compiled: bool) -> None:
    grams = {1: [b"<s>", b"</s>", b"<unk>", *b"a b c d e".split()], 4: [b"a b c d"], 5: [b"b c d e a"]}
    text = b"\\data\\\n" + b"".join(b"ngram %d=%d\n" % (k, len(grams.get(k, []))) for k in range(1, 6))
    for k in range(1, 6):
        text += b"\n\\%d-grams:\n" % k + b"".join(b"-0.5 %s -0.25\n" % gram for gram in grams.get(k, []))
    trie, _ = read(file, text + b"\\end\\", compiled)
    assert [len(level.key_G) for level in trie.levels] == [9, 5, 4, 3, 1]
    logp = trie.logp_array(np.array([BOS, 4, 5, 6, 7, 8, 4, 8], dtype=np.uint32)) / np.log(10)
    assert logp.tolist() == pytest.approx([0, *[-0.75] * 3, -0.5, -1.0, -0.5, -0.75])


@ENGINES
@pytest.mark.parametrize(
    ("column", "log10"),
    [
        *[("-1.23e-05", -1.23e-5), ("-1e-30", -1e-30), ("-.5E+1", -5.0), ("-0012.", -12.0), ("-1e99", -np.inf)],
        *[("-1e999", -np.inf), ("-INF", -np.inf), ("-99.00", -99.0), ("-98.99", -98.99), ("0", 0.0)],
        *[("-0e-999", 0.0), ("-0." + "123456789" * 9, -0.123456789123), ("-" + "0" * 50 + "1" * 20 + "e-19", -10 / 9)],
    ],
)
def test_numbers(file: Path, compiled: bool, column: str, log10: float) -> None:
    trie, _ = read(file, GOOD.replace(b"-0.5\ta a", column.encode() + b"\ta a"), compiled)
    assert trie.levels[1].logp_G[1] / np.log(10) == pytest.approx(log10, rel=1e-6)


def test_unknown_word_and_sentence_ends_may_be_missing(file: Path) -> None:
    trie, words = read(file, b"\\data\\\nngram 1=1\n\\1-grams:\n-1 a\n\\end\\\n")
    assert words == [b"a"]
    assert trie.levels[0].logp_G / np.log(10) == pytest.approx([-np.inf, -100, -np.inf, -np.inf, -1])


# ---- files that are none

GOOD = b"""\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1\t<unk>
-99\t<s>\t-0.5
-1\t</s>
-1\ta\t-0.5

\\2-grams:
-0.5\t<s> a
-0.5\ta a

\\end\\
"""
BAD = [
    (b"\\data\\", b"data", "the file ends without"),
    (b"ngram 2=2\n", b"ngram 3=2\n", "line 3: 'ngram 3=2' stands where 'ngram 2=...' is due"),
    (b"ngram 1=4\nngram 2=2\n", b"", "line 3: "),
    (b"=4", b"=5", "line 11: there are fewer 1-grams than the header promises"),
    (b"=4", b"=3", r"line 9: '-1\\ta\\t-0.5' stands where \\2-grams: is due"),
    (b"2=2", b"2=3", "line 15: there are fewer 2-grams than the header promises"),
    (b"2=2", b"2=1", "line 13: the header promises 1 2-grams, and there are more"),
    (b"2=2", b"2=99999999999", "line 3: it promises more n-grams than the file has room for"),
    (b"2=2", b"2=9999999", "line 3: it promises more n-grams than the file has room for"),
    (b"\\2-grams:", b"\\3-grams:", r"line 11: .* stands where \\2-grams: is due"),
    (b"\\end\\", b"", r"line 16: the file ends where \\end\\ is due"),
    (b"-1\ta", b"1\ta", "line 9: '1' is no log10 probability"),
    (b"-1\ta", b"nan\ta", "line 9: 'nan' is no log10 probability"),
    (b"-1\ta", b"-1_0\ta", "line 9: '-1_0' is no log10 probability"),
    (b"-0.5\ta a", b"0.5\ta a", "line 13: '0.5' is no log10 probability"),
    (b"-0.5\ta a", b"-0.5x\ta a", "line 13: '-0.5x' is no log10 probability"),
    (b"-0.5\ta a", b"-0.5\ta a\tinf", "line 13: 'inf' is no log10 backoff"),
    (b"-0.5\ta a", b"-0.5\ta a\t1e99", "line 13: '1e99' is no log10 backoff"),
    (b"-0.5\ta a", b"-0.5\ta a\t0 0", "line 13: it has 5 columns, not the 3 or 4 of a 2-gram"),
    (b"-0.5\ta a", b"-0.5\ta", "line 13: it has 2 columns"),
    (b"-0.5\ta a", b"-0.5\ta b", "line 13: the word 'b' is not among the 1-grams"),
    (b"-0.5\ta a", b"-0.5\t<s> a", "line 15: the 2-gram '<s> a' stands above it twice"),
    (b"-1\t<unk>", b"-1\ta", "line 9: the word 'a' was there before"),
    (b"-1\ta", b"-1\t<UNK>", "line 9: the word '<UNK>' was there before"),
]


@ENGINES
@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_malformed_files(file: Path, compiled: bool, old: bytes, new: bytes, message: str) -> None:
    read(file, GOOD, compiled)
    with pytest.raises(ArtifactError, match=message) as caught:
        read(file, GOOD.replace(old, new, 1), compiled)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"\x1f\x8b", gzip.compress(GOOD, mtime=0)[:-20], gzip.compress(b"", mtime=0), b"\\data\\"]
)
def test_what_is_cut_short(file: Path, text: bytes) -> None:
    with pytest.raises(ArtifactError):
        read(file, text)


def test_no_file(file: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        arpa.read(file.with_name("nothing.arpa"))
    with pytest.raises(ArtifactError, match="cannot be read"):
        arpa.read(file.parent)


def test_a_line_without_end(file: Path) -> None:
    with pytest.raises(ArtifactError, match="more than 16,777,216 bytes"):
        read(file, bytes(1 << 25))


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_noise_in_a_file_is_read_the_same_or_refused(file: Path, data: st.DataObject) -> None:
    text = bytearray(SRILM)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"9", b"\n", b" "])
        )
    results: list[tuple[Trie, list[bytes]] | str] = []
    for kernels in (False, True):
        try:
            results.append(read(file, bytes(text), kernels))
        except ArtifactError as error:
            results.append(str(error))
    one, other = results
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
    else:
        same(one[0], other[0])
        assert one[1] == other[1]
