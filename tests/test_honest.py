import math

import numpy as np
import pytest

from lmlab.testing import check_honest


def counted(prefix):
    return {symbol: (prefix.count(symbol) + 1) / (len(prefix) + 3) for symbol in "abc"}


def scores_of(text):
    return [math.log(counted(text[:at])[symbol]) for at, symbol in enumerate(text)]


def test_an_honest_predictor_passes_and_its_bits_are_told():
    told = check_honest(counted, ["abcab", "", "cc"], score=scores_of)
    assert told.symbols == 7
    assert told.bits == pytest.approx(-(sum(scores_of("abcab")) + sum(scores_of("cc"))) / math.log(2))


def test_rows_may_be_arrays_over_ids():
    assert check_honest(lambda prefix: np.full(4, 0.25), [[0, 3, 2]]).bits == pytest.approx(6)


def learning():
    seen = []

    def predict(prefix):  # remembers other texts
        seen.append(1)
        return {"a": 1 / (1 + len(seen)), "b": len(seen) / (1 + len(seen))}

    return predict


@pytest.mark.parametrize(
    ("predict", "options", "message"),
    [
        (lambda prefix: {"a": 0.6, "b": 0.5}, {}, r"after \(\): the probabilities sum to 1\.1"),
        (lambda prefix: {"a": 1.5, "b": -0.5}, {}, "is no probability"),
        (lambda prefix: {"a": math.nan, "b": 1.0}, {}, "nan is no probability"),
        (lambda prefix: {"a": -0.7, "b": -0.7}, {}, r"are these logits"),
        (lambda prefix: {"a": 1.0}, {}, r"after 'a': 'b' comes, but has probability 0"),
        (lambda prefix: np.eye(2), {}, r"shape \(2, 2\)"),
        (learning(), {}, "asked again"),
        (counted, {"score": lambda text: scores_of(text)[:-1]}, "3 scores for the 4 symbols of 'abba'"),
        (counted, {"score": lambda text: [0.0] * len(text)}, r"after \(\): the score of 'a' is 0"),
        (
            counted,
            {"score": lambda text: scores_of(text) if text == tuple("abba") else [-9.0] * len(text)},
            "looks ahead",
        ),
    ],
)
def test_what_is_not_honest_is_told_in_one_line(predict, options, message):
    with pytest.raises(AssertionError, match=message) as told:
        check_honest(predict, ["abba"], **options)
    assert "\n" not in str(told.value)


def test_models_of_ours_are_honest():
    import torch

    from lmlab.models.ngram import Ngram
    from tests.contracts.zoo import documents

    model = Ngram.estimate(Ngram.Settings(order=3), 8, documents())
    text = [5, 6, 4, 3]

    def predict(prefix):
        return model.start([list(prefix)])[0][0].double().exp().numpy()

    def score(ids):
        ids_N = np.array([model.bos, *ids])
        return np.concatenate([*model.scorer().token_logp(ids_N)])

    with torch.no_grad():
        assert check_honest(predict, [text], score=score).bits > 0
