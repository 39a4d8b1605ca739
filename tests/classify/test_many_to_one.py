"""The lecture's many-to-one networks: equal to torch's layers, and deaf to padding."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from torch import nn

from lmlab import registry
from lmlab.classify import GRUModel, LSTMModel, RNNModel, adding, fit_numbers, parity
from lmlab.classify.many_to_one import ManyToOne
from lmlab.classify.network import TextNetwork
from lmlab.classify.settings import POOLS
from lmlab.errors import DataError, SettingError
from lmlab.vocabulary import PAD

MODELS = [RNNModel, LSTMModel, GRUModel]
ENCODERS = ["rnn", "lstm", "gru", "cnn", "transformer"]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("layers", [1, 3])
def test_forward_is_torchs_layers_last_position_and_linear(kind, layers):
    torch.manual_seed(0)
    model = kind(5, 16, layers, 3, 0.4).eval()
    theirs = kind.network(5, 16, layers, batch_first=True, dropout=0.4 if layers > 1 else 0.0).eval()
    theirs.load_state_dict(model.recurrent.state_dict())
    x = torch.randn(7, 11, 5)
    torch.testing.assert_close(model(x), model.fc(theirs(x)[0][:, -1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_torchs(kind):
    torch.manual_seed(1)
    model = kind(4, 8, 2, 2)
    theirs, x = kind.network(4, 8, 2, batch_first=True), torch.randn(3, 9, 4)
    theirs.load_state_dict(model.recurrent.state_dict())
    model(x).square().sum().backward()
    model.fc(theirs(x)[0][:, -1]).square().sum().backward()
    for ours, other in zip(model.recurrent.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", MODELS)
def test_padded_numbers_change_nothing_even_nan(kind, pool):
    torch.manual_seed(2)
    model, x = kind(3, 8, 2, 4, pool=pool).eval(), torch.randn(4, 10, 3)
    lengths = torch.tensor([10, 1, 4, 7])
    alone = torch.cat([model(x[row : row + 1, :length]) for row, length in enumerate(lengths.tolist())])
    for padding in (0.0, 1e30, torch.nan):
        padded = torch.nn.functional.pad(x, (0, 0, 0, 5), value=padding)
        for row, length in enumerate(lengths.tolist()):
            padded[row, length:] = padding
        torch.testing.assert_close(model(padded, lengths), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ENCODERS)
def test_padded_tokens_change_no_prediction(kind, pool):
    torch.manual_seed(3)
    cls = registry.resolve("model", kind)
    network = TextNetwork(cls(cls.Settings(layers=2), 30), 5, pool, 0.1, 99).eval()
    ids, lengths = torch.randint(4, 30, (3, 12)), [12, 2, 6]
    alone = torch.cat([network(ids[row : row + 1, :length]) for row, length in enumerate(lengths)])
    padded = torch.nn.functional.pad(ids, (0, 9), value=PAD)
    for row, length in enumerate(lengths):
        padded[row, length:] = PAD
    torch.testing.assert_close(network(padded), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
def test_depth_groups_hold_every_parameter_once_from_the_head_down(kind):
    cls = registry.resolve("model", kind)
    network = TextNetwork(cls(cls.Settings(layers=3), 30), 5, "last", 0.0, 99)
    groups = network.depth_groups()
    every = [id(p) for group in groups for p in group]
    assert sorted(every) == sorted(map(id, network.parameters()))
    assert len(groups) >= 5
    assert groups[0][0] is network.head.weight
    assert id(network.encoder.embedding.weight) in map(id, groups[-1])


@pytest.mark.parametrize(
    ("x", "lengths", "said"),
    [
        (torch.full((2, 3, 4), torch.nan), None, "NaN or infinite in row 0, position 0"),
        (torch.tensor([[[0.0] * 4, [1, 2, torch.inf, 0]]]), None, "row 0, position 1"),
        (torch.zeros(2, 3), None, "shape"),
        (torch.zeros(2, 0, 4), None, "shape"),
        (torch.zeros(2, 3, 5), None, "shape"),
        (torch.zeros(2, 3, 4), torch.tensor([0, 3]), "from 1 to 3"),
        (torch.zeros(2, 3, 4), torch.tensor([4, 3]), "from 1 to 3"),
        (torch.zeros(2, 3, 4), torch.tensor([3]), "2 integers"),
    ],
)
def test_input_that_cannot_be_read_is_one_line(x, lengths, said):
    with pytest.raises(DataError, match=said) as error:
        LSTMModel(4, 8, 1, 2)(x, lengths)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"input_dim": 0}, {"layer_dim": -1}, {"dropout": 1.0}, {"pool": "first"}])
def test_sizes_out_of_bounds_are_refused(bad):
    good = {"input_dim": 2, "hidden_dim": 3, "layer_dim": 1, "output_dim": 2}
    with pytest.raises(SettingError):
        RNNModel(**{**good, **bad})


def test_toy_tasks_are_what_they_say():
    x, y = adding(50, 20)
    assert x[..., 1].sum(1).tolist() == [2.0] * 50
    assert x[:, :10, 1].sum(1).tolist() == [1.0] * 50
    np.testing.assert_allclose((x[..., 0] * x[..., 1]).sum(1), y, rtol=1e-6)
    bits, odd = parity(50, 9)
    assert (bits.sum((1, 2)).long() % 2).tolist() == odd.tolist()


def test_gates_that_remember_forget_over_1_to_so_many_positions():
    ih, hh = (bias.detach() for name, bias in LSTMModel(2, 500, 1, 1).remember(200).recurrent.named_parameters()
              if name.startswith("bias"))  # fmt: skip
    insert, forget, cell, output = ih.split(500)
    assert torch.equal(insert, -forget)
    assert 1 <= forget.exp().min() < forget.exp().mean() < forget.exp().max() <= 199
    assert not any(part.any() for part in (hh, cell, output))


def trained(task, out: int, **kwargs) -> tuple[ManyToOne, list[float]]:
    torch.manual_seed(0)
    model = LSTMModel(task[0].shape[-1], 24, 1, out)
    return model, fit_numbers(model, *task, **kwargs)


def test_numbers_are_learned_and_repeat_by_seed():
    task = adding(2000, 6)
    model, losses = trained(task, 1, steps=250, lr=1e-2)
    assert np.mean(losses[-20:]) < 0.8 * float(task[1].var())
    again, same = trained(task, 1, steps=250, lr=1e-2)
    assert losses == same
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    bits = parity(500, 2)
    model, _ = trained(bits, 2, steps=250, lr=2e-2)
    assert (model(bits[0]).argmax(1) == bits[1]).float().mean() > 0.95


def test_ctrl_c_ends_the_training_of_numbers_and_is_not_swallowed():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    class Pressed(LSTMModel):
        def forward(self, *inputs):
            signal.raise_signal(signal.SIGINT)
            return super().forward(*inputs)

    try:
        with pytest.raises(KeyboardInterrupt):
            fit_numbers(Pressed(2, 4, 1, 1), *adding(64, 4), steps=1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_dropout_is_lmlabs_own():
    assert not any(isinstance(module, nn.Dropout) and module.p for module in LSTMModel(2, 3, 2, 2, 0.5).modules())
