from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lmlab.models.cache import Cache
from lmlab.models.mixture import Mixture, fit_weights
from lmlab.models.ngram import Ngram
from lmlab.vocabulary import BOS, EOS, UNK

V = 9
PREDICTED = [UNK, *range(3, V)]


def by_hand(prompt: list[int], settings: Cache.Settings) -> dict[int, float]:
    """The formula, over a list."""
    text = [BOS, *prompt]
    p = dict.fromkeys(PREDICTED, 1 / len(PREDICTED))
    ages = [(len(text) - 1 - i, i) for i in range(1, len(text)) if len(text) - 1 - i < settings.window]
    for order in range(1, settings.order + 1):
        chosen = [(settings.decay**age, text[i]) for age, i in ages if order == 1 or text[i - 1] == text[-1]]
        total = sum(weight for weight, _ in chosen) + settings.prior
        p = {w: (sum(x for x, v in chosen if v == w) + settings.prior * p[w]) / total for w in PREDICTED}
    return p


@pytest.mark.parametrize(
    "settings",
    [
        Cache.Settings(),
        Cache.Settings(1),
        Cache.Settings(2, 3, 0.5, 0.2),
        Cache.Settings(2, 1),
        Cache.Settings(1, 4, 1),
    ],
)
def test_rows_are_the_formula(settings: Cache.Settings) -> None:
    prompts = [[], [4], [4, 4], [4, 5, 4, 6, 5, 4], [UNK, 7, EOS, 7, 8, 8, 7]]
    rows_BV = Cache(V, settings).start(prompts)[0].exp()
    for row_V, prompt in zip(rows_BV, prompts, strict=True):
        expected = by_hand(prompt, settings)
        assert row_V[PREDICTED].tolist() == pytest.approx([expected[w] for w in PREDICTED], abs=1e-6)


def test_nothing_is_remembered_beyond_the_window() -> None:
    model = Cache(V, Cache.Settings(window=2))
    assert torch.equal(model.start([[8, 8, 8, 8, 4, 5, 6]])[0], model.start([[7, 7, 7, 7, 4, 5, 6]])[0])


@pytest.mark.parametrize("piece", [1, 4, 256])
def test_known_text_scores_alike_in_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmlab.models.cache._PIECE", piece)
    ids_BT = torch.tensor([[4, 5, 4, 5, 4, 6, 3], [7, 7, 3, 0, 0, 0, 0]])
    logp_BT = Cache(V).logp(ids_BT, ids_BT > 0)
    for t in range(7):
        expected = by_hand(ids_BT[0, :t].tolist(), Cache.Settings())[int(ids_BT[0, t])]
        assert logp_BT[0, t].item() == pytest.approx(math.log(expected), abs=1e-6)
    assert not logp_BT[1, 3:].any()


def test_no_text_is_no_score() -> None:
    assert Cache(V).logp(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0)


def test_it_helps_a_model_where_texts_repeat_themselves() -> None:
    """Each document has favourite words of its own, which no n-gram model of the corpus can know."""
    rng = np.random.default_rng(0)
    documents = [rng.choice(rng.choice(np.arange(4, 60), 5), 50).tolist() for _ in range(30)]
    laid_N = np.array([i for document in documents for i in (BOS, *document, EOS)], dtype=np.uint16)
    components = [Ngram.estimate(Ngram.Settings(2), 60, laid_N[: 20 * 52]), Cache(60)]
    logp_MN = np.stack([np.concatenate([*model.scorer().token_logp(laid_N[20 * 52 :])]) for model in components])
    mixed = Mixture(Mixture.Settings("linear", tuple(fit_weights(logp_MN).tolist())), components)
    assert np.concatenate([*mixed.scorer().token_logp(laid_N[20 * 52 :])]).mean() > logp_MN[0].mean() + 1
