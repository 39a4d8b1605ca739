"""Against KenLM's lmplz: every n-gram of its ARPA files, nothing more, the same numbers."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lmlab.kernels import engine
from lmlab.models.ngram import Ngram
from lmlab.models.ngram.counts import count_ngrams
from lmlab.models.ngram.smoothing import Task, rule_of
from lmlab.tokens.scan import scanner
from lmlab.vocabulary import BOS, EOS, NEVER_PREDICTED, PAD, UNK

TOLERANCE = 2e-6  # an ARPA file holds float32 in six or seven digits

DATA = Path(os.environ.get("LMLAB_DATA", "/nowhere"))
pytestmark = pytest.mark.skipif(not (DATA / "kenlm").is_dir(), reason="LMLAB_DATA does not hold the lmplz outputs")

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


def compare(name: str, corpus: Corpus, settings: Ngram.Settings) -> tuple[np.ndarray, np.ndarray]:
    """How far every stored log10 probability and backoff lies from lmplz's."""
    model = Ngram.estimate(settings, len(corpus.vocabulary), corpus.ids_N)
    levels = model.trie.levels
    off_p, off_b = [], []
    for k, (ids_GK, logp_G, backoff_G) in enumerate(read_arpa(DATA / "kenlm" / name, corpus.vocabulary), 1):
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
    return np.abs(np.concatenate(off_p)), np.abs(np.concatenate(off_b))


@pytest.mark.parametrize("order", [3, 5])
def test_words_equal_lmplz(words: Corpus, order: int) -> None:
    off_p, off_b = compare(f"words_o{order}.arpa.gz", words, Ngram.Settings(order=order))
    assert max(off_p.max(), off_b.max()) <= TOLERANCE


def test_word_discounts_are_those_of_the_log(words: Corpus) -> None:
    assert discounts_of(words, 5) == pytest.approx(np.array(WORD_DISCOUNTS), rel=5e-6)


def test_character_discounts_are_those_of_the_log(chars: Corpus) -> None:
    assert discounts_of(chars, 6, lmplz=True) == pytest.approx(np.array(CHAR_DISCOUNTS), rel=5e-6)


def discounts_of(corpus: Corpus, order: int, lmplz: bool = False) -> np.ndarray:
    levels = count_ngrams(corpus.ids_N, order, len(corpus.vocabulary))
    rules = [
        rule_of("kneser-ney", Task(levels, k, len(corpus.vocabulary) - 2, 0.1, lmplz)) for k in range(1, order + 1)
    ]
    return np.array([rule.taken[1:] for rule in rules])


def test_characters_differ_from_lmplz_by_its_bug_alone(chars: Corpus) -> None:
    """Lmplz issue 405: the last n-gram in suffix order enters its order's counts of counts with its raw count."""
    off_p, off_b = compare("chars_o6.arpa.gz", chars, Ngram.Settings(order=6))
    assert np.quantile(off_p, 0.99) < 1e-4  # what correct counts change on a corpus this small
    assert np.quantile(off_b, 0.99) < 1e-4
    assert max(off_p.max(), off_b.max()) > 10 * TOLERANCE

    off_p, off_b = compare("chars_o6.arpa.gz", chars, Ngram.Settings(order=6, compat="lmplz"))
    assert max(off_p.max(), off_b.max()) <= TOLERANCE


def test_pruned_words_equal_lmplz(words: Corpus) -> None:
    off_p, off_b = compare("words_o4_prune001.arpa.gz", words, Ngram.Settings(order=4, prune=(0, 0, 1)))
    assert max(off_p.max(), off_b.max()) <= TOLERANCE


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
