"""The calibration temperature that a parabola finds against the one that a search over a fine grid finds."""

import numpy as np
import pytest
import torch

from lmlab.models.neural.rnn import LSTM
from lmlab.tokens.batches import Columns
from lmlab.training.calibrate import calibrate
from tests.stores import of_documents


@pytest.fixture
def text():
    rng = np.random.default_rng(0)
    return Columns(
        of_documents([rng.choice([5, 6, 7], 3000, p=[0.6, 0.3, 0.1]).tolist()], 10), 4, 16, roll=False
    ).epoch(0)


def unsure(model, certainty):
    """A model that gives each of three tokens its true probability to the power of `certainty`, whatever it reads."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.output.bias.fill_(-12)  # that of `<eos>`, which comes once
        model.output.bias[5:8] = certainty * torch.tensor([0.6, 0.3, 0.1]).log()
    return model.eval()


@pytest.mark.parametrize("certainty", [1.15, 0.9])
def test_too_sure_a_model_is_made_as_sure_as_the_text_allows(text, certainty):
    model = unsure(LSTM(LSTM.Settings(embedding=4, hidden=8), 10), certainty)
    before, after, _ = calibrate(model, text)
    assert 1 / model.temperature == pytest.approx(1 / certainty, abs=0.05)
    assert after < before


def test_a_model_that_suits_the_text_stays_as_it_is(text):
    model = unsure(LSTM(LSTM.Settings(embedding=4, hidden=8), 10), 1.0)
    before, after, _ = calibrate(model, text)
    assert 1 / model.temperature == pytest.approx(1.0, abs=0.04)
    assert after <= before


def test_as_many_tokens_are_read_as_there_is_time_for(text):
    model = unsure(LSTM(LSTM.Settings(embedding=4, hidden=8), 10), 0.9)
    _, _, some = calibrate(model, text, seconds=0.0)
    _, _, more = calibrate(model, text)
    assert some == text[0].tokens < more == sum(batch.tokens for batch in text)
