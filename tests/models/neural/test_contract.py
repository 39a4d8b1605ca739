"""What an architecture of another package signs: where it is served, and where it is refused in words.

Shapes: B sequences, T positions, H features, V the vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lmlab.errors import UsageError
from lmlab.models.neural.base import NeuralModel, NeuralSettings, TensorState
from lmlab.models.neural.dropout import Dropout, drawn_from, drop
from lmlab.testing import check_laws
from lmlab.tokens.batches import Batch
from lmlab.training.parallel import Gradients

V, H = 12, 8


class Sum(NeuralModel):
    """The sum of the embeddings so far, from a start that is learned and not zero."""

    @dataclass(frozen=True)
    class Settings(NeuralSettings):
        """No more than all models have."""

    def __init__(self, settings, vocab_size, dropout=None):
        super().__init__(settings, vocab_size, H)
        self.embedding = nn.Embedding(vocab_size, H)
        self.begin = nn.Parameter(torch.linspace(1, 2, H))
        self.dropout = dropout or Dropout(0.0)

    def initial_state(self, rows, device):
        return TensorState((self.begin.to(device).expand(rows, -1),))

    def features(self, ids_BT, state):
        sums_BTH = state.tensors[0][:, None] + self.embedding(ids_BT).cumsum(1)
        return self.dropout(sums_BTH), TensorState((sums_BTH[:, -1],))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Sum(Sum.Settings(), V)


def test_it_has_defaults_for_all_it_does_not_name():
    assert (Sum.ladder, Sum.training_defaults["lr"]) == ((), 3e-3)

    class Other(Sum):
        training_defaults: ClassVar = {"batch_size": 4}

    assert Other.training_defaults == {"lr": 3e-3, "batch_size": 4}
    assert "batch_size" not in Sum.training_defaults


def test_without_an_initial_state_it_is_abstract():
    class Hollow(NeuralModel):
        def features(self, ids_BT, state):
            raise AssertionError

    with pytest.raises(TypeError, match="initial_state"):
        Hollow(Sum.Settings(), V, H)


def test_all_laws_hold(model):
    check_laws(model.eval())


def test_a_fresh_row_reads_as_a_text_of_its_own_and_teaches_the_start(model):
    ids_BT = torch.randint(4, V, (3, 5), generator=torch.Generator().manual_seed(1))
    fresh_B = torch.tensor([False, True, False])
    _, state = model.loss(ids_BT, ids_BT)
    nats, _ = model.loss(ids_BT[1:2], ids_BT[1:2], state.select(torch.tensor([1])), torch.tensor([True]))
    alone, _ = model.loss(ids_BT[1:2], ids_BT[1:2])
    assert nats.item() == pytest.approx(alone.item(), rel=1e-6)
    features_BTH, _ = model.read(ids_BT, state, fresh_B)
    assert torch.equal(features_BTH[1:2], model.read(ids_BT[1:2])[0])
    assert torch.equal(features_BTH[::2], model.read(ids_BT, state)[0][::2])
    model.zero_grad()
    nats.backward()
    assert model.begin.grad.abs().sum() > 0


@pytest.mark.parametrize("parts", [1, 2])
def test_training_gives_fresh_rows_the_initial_state(model, parts):
    """Blocks of rows in threads too: the gradient is that of the rows as texts of their own."""
    ids_BT = torch.randint(4, V, (4, 5), generator=torch.Generator().manual_seed(1))
    _, state = model.loss(ids_BT, ids_BT)
    state = state.detach()
    found = []
    for batch, before in (
        (Batch(ids_BT, ids_BT, True, torch.ones(4, dtype=torch.bool)), state),
        (Batch(ids_BT, ids_BT, False), None),
    ):
        model.zero_grad()
        worker = Gradients(model, lambda: torch.autocast("cpu", enabled=False), parts)
        nats, _ = worker.add(batch, before, 1.0, (1, 2))
        worker.close()
        found.append([nats, *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.allclose(one, other, rtol=1e-5) for one, other in zip(*found, strict=True))


class Functional(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


@pytest.mark.parametrize("dropout", [nn.Dropout(0.5), nn.Dropout1d(0.5), Functional()], ids=str)
def test_dropout_of_torchs_own_is_refused_while_training_and_served_otherwise(dropout):
    model = Sum(Sum.Settings(), V, dropout).train()
    ids_BT = torch.full((2, 5), 7)
    told = r"draws from torch's random generator .*: use lmlab\.models\.neural\.dropout"
    with pytest.raises(UsageError, match=told), drawn_from(1):
        model.loss(ids_BT, ids_BT)
    if not isinstance(dropout, Functional):
        with pytest.raises(UsageError, match=rf"dropout is torch's {type(dropout).__name__}: use"):
            drop(model, 1.0)
    with drawn_from(1):
        model.eval().loss(ids_BT, ids_BT)


def test_dropout_of_ours_follows_key_and_schedule():
    model = Sum(Sum.Settings(), V, Dropout(0.4)).train()
    ids_BT = torch.full((20, 50), 7)

    def share(key):
        with drawn_from(key):
            return (model.read(ids_BT)[0] == 0).float().mean().item()

    drop(model, 2.0)
    assert share(1) == pytest.approx(0.8, abs=0.02)
    drop(model, 1.0)
    assert share(1) == share(1) == pytest.approx(0.4, abs=0.02)
    assert share(1) != share(2)


def test_a_fault_in_the_model_is_not_hidden_by_the_check():
    with pytest.raises(ZeroDivisionError), drawn_from(1):
        _ = torch.rand(1) / (1 // 0)
