"""The figures of NLTK's own tests of `nltk.lm` (its test/unit/lm/test_models.py), where its definitions and ours agree.

There, `<s>` is a word like others, predicted and counted in the vocabulary, and stands order - 1 times before each
sentence, as `</s>` does after it. So here it is spelled as an ordinary word, behind our own <bos>, which is in no
context that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lmlab.models.ngram import smoothing
from lmlab.models.ngram.counts import count_ngrams
from lmlab.models.ngram.model import Ngram
from lmlab.vocabulary import BOS, EOS, UNK

SENTENCES = ("abcd", "egadbe")
IDS = {"<s>": 4, "a": 5, "b": 6, "c": 7, "d": 8, "z": 9, "</s>": EOS}  # e and g are no words: unknown
V = 10  # those, <UNK>, and [PAD] and <bos>, which are never predicted

Row = tuple[str, str, float]
MLE_2: list[Row] = [("d", "c", 1), ("d", "e", 0), ("z", "", 0), ("a", "", 2 / 14), ("y", "", 3 / 14)]
MLE_3: list[Row] = [("d", "bc", 1), ("d", "c", 1), ("a", "", 2 / 18), ("z", "", 0), ("y", "", 3 / 18)]
LIDSTONE_2: list[Row] = [("d", "c", 1.1 / 1.8), ("a", "", 2.1 / 14.8), ("z", "", 0.1 / 14.8), ("y", "", 3.1 / 14.8)]
LIDSTONE_3: list[Row] = [("d", "c", 1.1 / 1.8), ("e", "c", 0.1 / 1.8), ("d", "bc", 1.1 / 1.8), ("e", "bc", 0.1 / 1.8)]
LAPLACE_2: list[Row] = [("d", "c", 2 / 9), ("a", "", 3 / 22), ("z", "", 1 / 22), ("y", "", 4 / 22)]
STUPID_3: list[Row] = [
    *(("c", "", 1 / 18), ("z", "", 0), ("y", "", 3 / 18)),
    *(("c", "b", 1 / 2), ("c", "ab", 1), ("c", "zb", 0.4 / 2)),
]
WITTEN_BELL_3: list[Row] = [
    *(("c", "", 1 / 18), ("z", "", 0), ("y", "", 3 / 18)),
    *(("c", "b", 0.25 + 0.5 / 18), ("c", "ab", 0.5 + 0.5 * (0.25 + 0.5 / 18)), ("c", "zb", 0.25 + 0.5 / 18)),
]
ABSOLUTE_3: list[Row] = [
    *(("c", "", 1 / 18), ("z", "", 0), ("y", "", 3 / 18)),
    *(("c", "b", 0.125 + 0.75 / 18), ("c", "ab", 0.25 + 0.75 * (0.125 + 0.75 / 18)), ("c", "zb", 0.125 + 0.75 / 18)),
]
KNESER_NEY_3: list[Row] = [
    *(("c", "", 1 / 14), ("z", "", 0), ("y", "", 3 / 14)),
    *(("c", "b", 0.125 + 0.75 / 14), ("c", "ab", 0.25 + 0.75 * (0.125 + 0.75 / 14)), ("c", "zb", 0.125 + 0.75 / 14)),
]
SEEN = ["<s> a", "a b", "b e", "e a", "a d", "d </s>"]
NOVEL = ["<s> a", "a c", "c e", "e d", "d c", "c </s>"]
TEXTS = [  # with the cross-entropy in bits, to four decimals
    ("mle", {}, SEEN, 1.0975),
    ("mle", {}, ["<s> a", "a c", "c d", "d </s>"], np.inf),
    ("mle", {}, ["<s>", "a", "c", "-", "d", "c", "</s>"], 3.0095),
    ("add-k", {"k": 0.1}, NOVEL, 4.0917),
    ("add-k", {"k": 1.0}, NOVEL, 3.1275),
]


def ids(words: str) -> list[int]:
    return [IDS.get(word, UNK) for word in (words.split() if " " in words or "<" in words else words)]


def model(name: str, order: int, padded_for: int, *, first_is_bos: bool = False, **settings: Any) -> Ngram:
    """A model of their padded sentences; the first of their marks can be our <bos>."""
    marks = padded_for - 1
    laid = ([BOS, *[IDS["<s>"]] * (marks - first_is_bos), *ids(sentence), *[EOS] * marks] for sentence in SENTENCES)
    counts = count_ngrams(np.array([id for sentence in laid for id in sentence], dtype=np.uint32), order, V)
    return Ngram.from_counts(Ngram.Settings(order, name, **settings), counts)


def p(model: Ngram, word: str, context: str) -> float:
    """The probability of a word after this context, whatever came before it."""
    row_V = model.trie.rows(model.trie.begin([ids(context)]))[0]
    return float(np.exp(row_V[ids(word)[0]]))


def as_theirs(monkeypatch: pytest.MonkeyPatch, name: str, discount: float) -> None:
    """Interpolate as NLTK does: the words themselves as they are counted, and one fixed discount for all longer."""
    ours: Callable[[Any], Any] = smoothing._SCHEMES[name]

    def theirs(task: Any) -> Any:
        taken = 0.0 if task.k == 1 else discount
        rule = ours(task)._replace(discounts=(0.0, taken, taken, taken))
        return rule._replace(per_type=0.0) if task.k == 1 else rule

    monkeypatch.setitem(smoothing._SCHEMES, name, theirs)


@pytest.mark.parametrize(("padded_for", "rows"), [(2, MLE_2), (3, MLE_3)])
def test_maximum_likelihood(padded_for: int, rows: list[Row]) -> None:
    for word, context, figure in rows:
        assert p(model("mle", padded_for, padded_for), word, context) == pytest.approx(figure, rel=1e-6), (
            word,
            context,
        )


@pytest.mark.parametrize(("k", "padded_for", "rows"), [(0.1, 2, LIDSTONE_2), (0.1, 3, LIDSTONE_3), (1.0, 2, LAPLACE_2)])
def test_lidstone_and_laplace(k: float, padded_for: int, rows: list[Row]) -> None:
    """Ours adds to the counts after whole contexts alone, so each context has a model of its order."""
    for word, context, figure in rows:
        ours = model("add-k", len(context) + 1, padded_for, k=k)
        assert p(ours, word, context) == pytest.approx(figure, rel=1e-6), (word, context)


@pytest.mark.parametrize(("name", "settings", "ngrams", "bits"), TEXTS)
def test_entropy(name: str, settings: dict[str, float], ngrams: list[str], bits: float) -> None:
    ours = model(name, len(ngrams[0].split()), 2, **settings)
    parts = [ngram.split() for ngram in ngrams]
    found = [p(ours, part[-1], part[0] if len(part) == 2 else "") for part in parts]
    with np.errstate(divide="ignore"):
        assert -np.log2(found).mean() == pytest.approx(bits, abs=6e-5)


def test_stupid_backoff() -> None:
    for word, context, figure in STUPID_3:
        assert p(model("stupid-backoff", 3, 3), word, context) == pytest.approx(figure, rel=1e-6), (word, context)


def test_witten_bell_but_for_the_words_themselves() -> None:
    """Ours interpolates the single words with the uniform distribution; what is built on them is theirs."""
    ours = model("witten-bell", 3, 3)
    single = {word: p(ours, word, "") for word in "czy"}
    for word, context, figure in WITTEN_BELL_3[:3]:
        kinds = 7  # a b c d <UNK> <s> </s>
        assert single[word] == pytest.approx((18 * figure + kinds / 8) / (18 + kinds), rel=1e-6), context
    for (word, context, figure), weight in zip(WITTEN_BELL_3[3:], (0.5, 0.25, 0.5), strict=True):
        assert p(ours, word, context) - weight * (single[word] - 1 / 18) == pytest.approx(figure, rel=1e-6), context


@pytest.mark.parametrize(
    ("name", "discount", "rows"),
    [("witten-bell", 0.0, WITTEN_BELL_3), ("absolute", 0.75, ABSOLUTE_3), ("kneser-ney", 0.75, KNESER_NEY_3)],
)
def test_interpolation_with_their_words_and_discounts(
    name: str, discount: float, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the unigrams and the discounts put to theirs, nothing else differs."""
    as_theirs(monkeypatch, name, discount)
    ours = model(name, 3, 3, first_is_bos=name == "kneser-ney")  # what precedes a word counts: their mark, once
    for word, context, figure in rows:
        assert p(ours, word, context) == pytest.approx(figure, rel=1e-6), (word, context)
