"""Against KenLM's lmplz: every n-gram of its ARPA files, nothing more, the same numbers.

`tests/golden` has what it makes of small texts of ours; where LMLAB_DATA has what it made of a play, that is compared
too.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lmlab.kernels import engine
from lmlab.models.ngram import Ngram, arpa
from lmlab.models.ngram.counts import count_ngrams
from lmlab.models.ngram.smoothing import Lmplz, rules_of
from lmlab.tokens.scan import scanner
from lmlab.vocabulary import BOS, EOS, NEVER_PREDICTED, PAD, UNK

TOLERANCE = 2e-6  # an ARPA file holds float32 in six or seven digits

GOLDEN = Path(__file__).parents[2] / "golden"
DATA = Path(os.environ.get("LMLAB_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not (DATA / "kenlm").is_dir(), reason="LMLAB_DATA does not hold the lmplz outputs")
ENGINES = pytest.mark.parametrize("compiled", [False, True])
QUERIED = ("words_o5", "words_o4_prune001", "words_o3_prune012", "few_o3")

# lmplz's own log: D1 D2 D3+ of orders 1, 2, ...
WORD_DISCOUNTS = [
    (0.689224, 1.02829, 1.42186),
    (0.836972, 1.17055, 1.29242),
    (0.935599, 1.26937, 1.43036),
    (0.979356, 1.49648, 1.51919),
    (0.992519, 1.7809, 1.98203),
]
CHAR_DISCOUNTS = [
    (0.2, 1.7, 1.4),
    (0.475819, 1.17581, 1.96007),
    (0.523382, 1.08922, 1.56938),
    (0.615898, 1.1621, 1.56565),
    (0.69142, 1.24181, 1.60341),
    (0.687915, 1.14434, 1.56747),
]


@dataclass(frozen=True)
class Corpus:
    ids_N: np.ndarray
    vocabulary: dict[str, int]

    @classmethod
    def of(cls, lines: list[list[str]]) -> Corpus:
        vocabulary = {"<pad>": PAD, "<unk>": UNK, "<s>": BOS, "</s>": EOS}
        ids: list[int] = []
        for line in lines:
            ids += [BOS, *(vocabulary.setdefault(word, len(vocabulary)) for word in line), EOS]
        return cls(np.array(ids, dtype=np.uint16), vocabulary)


def text_lines() -> list[str]:
    """Every line is a sentence, the empty ones too; the file ends with a newline."""
    return (DATA / "tinyshakespeare.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


@pytest.fixture(scope="module")
def words() -> Corpus:
    return Corpus.of([line.split() for line in text_lines()])


@pytest.fixture(scope="module")
def chars() -> Corpus:
    return Corpus.of([["▁" if c == " " else c for c in line] for line in text_lines()[:8000]])


def read_arpa(path: Path, vocabulary: dict[str, int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each order: the n-grams' ids, log10 probabilities and log10 backoffs (0 where none is written)."""
    sections: list[tuple[list[int], list[float], list[float]]] = []
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.startswith("\\") and line.endswith("-grams:\n"):
                sections.append(([], [], []))
            columns = line.rstrip("\n").split("\t")
            if len(columns) > 1:
                ids, logp, backoff = sections[-1]
                ids += [vocabulary[word] for word in columns[1].split(" ")]
                logp.append(float(columns[0]))
                backoff.append(float(columns[2]) if len(columns) > 2 else 0.0)
    return [(np.array(s[0]).reshape(len(s[1]), -1), np.array(s[1]), np.array(s[2])) for s in sections]


def compare(path: Path, corpus: Corpus, settings: Ngram.Settings) -> tuple[np.ndarray, np.ndarray]:
    """How far every stored log10 probability and backoff lies from lmplz's."""
    model = Ngram.estimate(settings, len(corpus.vocabulary), corpus.ids_N)
    levels = model.trie.levels
    off_p, off_b = [], []
    for k, (ids_GK, logp_G, backoff_G) in enumerate(read_arpa(path, corpus.vocabulary), 1):
        node_G = np.zeros(len(ids_GK), dtype=np.int64)
        for level, word_G in zip(levels, ids_GK.T, strict=False):
            node_G = level.find(node_G, word_G)
            assert node_G.min() >= 0, "an n-gram of the ARPA file is missing"
        expected = len(levels[0].key_G) - 1 if k == 1 else len(levels[k - 1].key_G)  # all but [PAD]
        assert len(np.unique(node_G)) == len(node_G) == expected
        predicted_G = ~np.isin(ids_GK[:, -1], NEVER_PREDICTED)  # lmplz writes <s> with log 0
        off_p.append((levels[k - 1].logp_G[node_G] / np.log(10) - logp_G)[predicted_G])
        if k < settings.order:
            off_b.append(levels[k - 1].backoff_G[node_G] / np.log(10) - backoff_G)
    return np.abs(np.concatenate(off_p)), np.abs(np.concatenate(off_b or [np.zeros(1)]))


def discounts_of(corpus: Corpus, order: int, lmplz: bool = False) -> np.ndarray:
    levels = count_ngrams(corpus.ids_N, order, len(corpus.vocabulary))
    rules = rules_of(levels, "kneser-ney", lmplz=Lmplz() if lmplz else None)
    return np.array([rule.discounts[1:] for rule in rules])


# ---- texts of ours


def golden(text: str) -> Corpus:
    return Corpus.of([line.split() for line in (GOLDEN / text).read_text(encoding="utf-8").splitlines()])


FILES = [
    ("words_o1", "text.txt", Ngram.Settings(order=1, compat="lmplz")),
    ("words_o2", "text.txt", Ngram.Settings(order=2, compat="lmplz")),
    ("words_o3", "text.txt", Ngram.Settings(order=3, compat="lmplz")),
    ("words_o5", "text.txt", Ngram.Settings(order=5, compat="lmplz")),
    ("words_o4_prune001", "text.txt", Ngram.Settings(order=4, prune=(0, 0, 1), compat="lmplz")),
    ("words_o3_prune012", "text.txt", Ngram.Settings(order=3, prune=(0, 1, 2), compat="lmplz")),
    ("few_o3", "few.txt", Ngram.Settings(order=3, compat="lmplz")),
    ("chars_o6", "chars.txt", Ngram.Settings(order=6, compat="lmplz")),
]


@ENGINES
@pytest.mark.parametrize(("name", "text", "settings"), FILES)
def test_estimates_equal_lmplz(name: str, text: str, settings: Ngram.Settings, compiled: bool) -> None:
    with engine.only(compiled):
        off_p, off_b = compare(GOLDEN / f"{name}.arpa.gz", golden(text), settings)
    assert max(off_p.max(), off_b.max()) <= TOLERANCE


@ENGINES
@pytest.mark.parametrize(("name", "text", "settings"), FILES)
def test_discounts_are_those_of_the_log(name: str, text: str, settings: Ngram.Settings, compiled: bool) -> None:
    with engine.only(compiled):
        found = discounts_of(golden(text), settings.order, lmplz=True)
    assert found == pytest.approx(np.array(json.loads((GOLDEN / "discounts.json").read_text())[name]), rel=5e-6)


def test_correct_counts_of_counts_differ_from_lmplz_by_its_bug_alone() -> None:
    """Lmplz issue 405: the last n-gram in suffix order enters its order's counts of counts with its raw count."""
    off_p, off_b = compare(GOLDEN / "chars_o6.arpa.gz", golden("chars.txt"), Ngram.Settings(order=6))
    assert 10 * TOLERANCE < max(off_p.max(), off_b.max()) < 0.1


def queried(name: str) -> tuple[list[list[tuple[float, int, bool]]], float, float]:
    """What `query` said: log10 p, length of the n-gram and unknown or not of each word of each line; perplexities."""
    *lines, including, excluding, _, _ = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    words = [
        [(float(logp), int(length), id == "0") for id, length, logp in re.findall(r"=(\d+) (\d+) (\S+)\t", line)]
        for line in lines
    ]
    return words, float(including.split("\t")[1]), float(excluding.split("\t")[1])


@ENGINES
@pytest.mark.parametrize(("name", "text", "settings"), [file for file in FILES if file[0] in QUERIED])
def test_scores_and_perplexities_equal_kenlms_query(
    name: str, text: str, settings: Ngram.Settings, compiled: bool
) -> None:
    words, including, excluding = queried(f"{name}.query.txt")
    corpus = golden(text)
    spelled = [word for word, id in corpus.vocabulary.items() if id > EOS]
    with engine.only(compiled):
        ids_N = scanner(0, spelled, learn=False).feed((GOLDEN / "questions.txt").read_bytes())
        estimated = Ngram.estimate(settings, len(corpus.vocabulary), corpus.ids_N)
        imported, order = arpa.read(GOLDEN / f"{name}.arpa.gz")
        rank = {word.decode(): id for id, word in enumerate(order, 4)}
        theirs_V = np.array([PAD, UNK, BOS, EOS, *(rank[word] for word in spelled)], dtype=np.uint32)
        for logp_N in (estimated.logp_array(ids_N), imported.logp_array(theirs_V[ids_N])):
            told_N, known_N = ids_N != BOS, (ids_N != BOS) & (ids_N != UNK)
            log10_M = logp_N[told_N].astype(np.float64) / np.log(10)
            assert log10_M == pytest.approx([logp for line in words for logp, _, _ in line], abs=1e-5)
            assert (ids_N[told_N] == UNK).tolist() == [unknown for line in words for _, _, unknown in line]
            assert np.exp(-logp_N[told_N].mean(dtype=np.float64)) == pytest.approx(including, rel=5e-6)
            assert np.exp(-logp_N[known_N].mean(dtype=np.float64)) == pytest.approx(excluding, rel=5e-6)


# ---- a play


@needs_data
@pytest.mark.parametrize("order", [3, 5])
def test_the_plays_words_equal_lmplz(words: Corpus, order: int) -> None:
    off_p, off_b = compare(DATA / "kenlm" / f"words_o{order}.arpa.gz", words, Ngram.Settings(order=order))
    assert max(off_p.max(), off_b.max()) <= TOLERANCE


@needs_data
def test_the_plays_word_discounts_are_those_of_the_log(words: Corpus) -> None:
    assert discounts_of(words, 5) == pytest.approx(np.array(WORD_DISCOUNTS), rel=5e-6)


@needs_data
def test_the_plays_character_discounts_are_those_of_the_log(chars: Corpus) -> None:
    assert discounts_of(chars, 6, lmplz=True) == pytest.approx(np.array(CHAR_DISCOUNTS), rel=5e-6)


@needs_data
def test_the_plays_characters_differ_from_lmplz_by_its_bug_alone(chars: Corpus) -> None:
    """Lmplz issue 405: the last n-gram in suffix order enters its order's counts of counts with its raw count."""
    off_p, off_b = compare(DATA / "kenlm" / "chars_o6.arpa.gz", chars, Ngram.Settings(order=6))
    assert np.quantile(off_p, 0.99) < 1e-4  # what correct counts change on a corpus this small
    assert np.quantile(off_b, 0.99) < 1e-4
    assert max(off_p.max(), off_b.max()) > 10 * TOLERANCE

    off_p, off_b = compare(DATA / "kenlm" / "chars_o6.arpa.gz", chars, Ngram.Settings(order=6, compat="lmplz"))
    assert max(off_p.max(), off_b.max()) <= TOLERANCE


@needs_data
def test_the_plays_pruned_words_equal_lmplz(words: Corpus) -> None:
    off_p, off_b = compare(
        DATA / "kenlm" / "words_o4_prune001.arpa.gz", words, Ngram.Settings(order=4, prune=(0, 0, 1))
    )
    assert max(off_p.max(), off_b.max()) <= TOLERANCE


@needs_data
@pytest.mark.parametrize(
    ("settings", "with_oovs", "without_oovs"),
    [
        (Ngram.Settings(order=3), 11334.61225951751, 976.5629655365215),
        (Ngram.Settings(order=5), 11314.307983930772, 975.2913367979934),
        (Ngram.Settings(order=4, prune=(0, 0, 1)), 11261.244311028278, 972.9619604754315),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_perplexity_equals_kenlms_query(
    words: Corpus, settings: Ngram.Settings, with_oovs: float, without_oovs: float, compiled: bool
) -> None:
    """On text of another kind, the first 2,000 lines of AG News' test file; figures of KenLM's `query`, to 5 digits."""
    lines = (DATA / "ag_news_test.csv").read_bytes().split(b"\n")[:2000]
    spelled = [word for word, id in words.vocabulary.items() if id > EOS]
    with engine.only(compiled):
        ids_N = scanner(0, spelled, learn=False).feed(b"\n".join(lines) + b"\n")
        logp_N = Ngram.estimate(settings, len(words.vocabulary), words.ids_N).logp_array(ids_N).astype(np.float64)
    told_N, known_N = ids_N != BOS, (ids_N != BOS) & (ids_N != UNK)
    assert (int(told_N.sum()), int(told_N.sum() - known_N.sum())) == (76824, 35440)
    assert np.exp(-logp_N[told_N].mean()) == pytest.approx(with_oovs, rel=5e-6)
    assert np.exp(-logp_N[known_N].mean()) == pytest.approx(without_oovs, rel=5e-6)
