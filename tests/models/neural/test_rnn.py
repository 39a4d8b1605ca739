"""Shapes: B sequences, T positions, E embedding, H hidden, L layers, V vocabulary."""

import pytest
import torch
from torch import nn

from lmlab.models.neural.dropout import drawn_from
from lmlab.models.neural.rnn import GRU, LSTM, RNN
from tests.models.neural.acceptance import SMALL, V, documents, gap, in_pieces, make, text

FAMILY = pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
INPUT = pytest.mark.parametrize("entering", ["learned", "tied", "one-hot"])


def fresh(kind, **settings):
    architecture = {"rnn": RNN, "lstm": LSTM, "gru": GRU}[kind]
    return architecture(architecture.Settings(**{**SMALL[kind], **settings}), V)


@FAMILY
@INPUT
def test_however_a_token_enters_pieces_read_as_the_whole(kind, entering):
    model = make(kind, input=entering)
    assert gap(in_pieces(model, text(), [17])[0], in_pieces(model, text(), [1] * 17)[0]) < 2e-5


@FAMILY
def test_the_cells_one_by_one_are_the_library_network(kind):
    """One token in evaluation, against nn.RNN, nn.LSTM, nn.GRU on the same weights, state and all."""
    model = make(kind, layers=3)
    entered_TBE = model.embedding(text(4, 5).T)
    with torch.no_grad():
        expected_TBH, last = model.recurrent(entered_TBE)
        state, hidden = None, []
        for token_B in text(4, 5).T:
            features_B1H, state = model.read(token_B[:, None], state)
            hidden.append(features_B1H[:, 0])
    assert gap(torch.stack(hidden), expected_TBH) < 1e-6
    for part_BLH, expected_LBH in zip(state.tensors, last if kind == "lstm" else (last,), strict=True):
        assert gap(part_BLH, expected_LBH.transpose(0, 1)) < 1e-6


@FAMILY
def test_a_plain_network_of_ones_own_gives_the_same(kind):
    """Written out by hand from the definitions, one layer."""
    model = make(kind, layers=1)
    weights = [getattr(model.recurrent, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    h = c = torch.zeros(3, 9)
    for x in model.embedding(text(3, 6).T):
        entered, remembered = x @ weights[0].T + weights[2], h @ weights[1].T + weights[3]
        if kind == "rnn":
            h = (entered + remembered).tanh()
        elif kind == "lstm":
            i, f, g, o = (entered + remembered).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            (r, z, n), (hr, hz, hn) = entered.chunk(3, 1), remembered.chunk(3, 1)
            update = (z + hz).sigmoid()
            h = (1 - update) * (n + (r + hr).sigmoid() * hn).tanh() + update * h
    assert gap(model.read(text(3, 6))[0][:, -1], h) < 1e-5


@FAMILY
def test_recurrent_weights_start_orthogonal_gate_by_gate(kind):
    model = fresh(kind, hidden=16)
    for name, parameter in model.recurrent.named_parameters():
        if name.startswith("weight_hh"):
            for gate_HH in parameter.split(16):
                assert gap(gate_HH @ gate_HH.T, torch.eye(16)) < 1e-5


def test_the_forget_gate_starts_open_by_one_and_all_other_biases_at_zero():
    model = fresh("lstm")
    for layer in range(2):
        both = getattr(model.recurrent, f"bias_ih_l{layer}") + getattr(model.recurrent, f"bias_hh_l{layer}")
        _, forget, _, _ = both.split(9)
        assert (forget == 1).all()
        assert both.sum() == 9


@FAMILY
def test_a_one_hot_input_is_an_identity_embedding(kind):
    hot, learned = make(kind, input="one-hot"), make(kind, input="learned", embedding=V)
    assert hot.embedding is None
    learned.load_state_dict({**hot.state_dict(), "embedding.weight": torch.eye(V)})
    assert gap(hot(text())[0], learned(text())[0]) < 1e-6


@FAMILY
def test_tied_weights_are_one_parameter(kind):
    model = make(kind, input="tied")
    matrices = [name for name, parameter in model.named_parameters() if parameter.shape == (V, 5)]
    assert matrices == ["embedding.weight"]
    loss, _ = model.loss(*documents([[5, 6]]), None)
    loss.backward()
    assert (model.embedding.weight.grad[9] != 0).any(), "a token never read is still predicted against"
    before = model(text())[0][..., 9].clone()
    with torch.no_grad():
        model.embedding.weight[9] += 1.0
    assert not torch.equal(model(text())[0][..., 9], before)


@FAMILY
def test_tied_weights_are_one_after_loading(kind, tmp_path):
    model = make(kind, input="tied")
    model.save(tmp_path)
    loaded = type(model).load(tmp_path, model.settings, V)
    assert torch.equal(loaded(text())[0], model(text())[0])
    with torch.no_grad():
        loaded.embedding.weight.zero_()
    spread = loaded(text())[0][..., 4:]
    assert gap(spread, loaded.output.bias[4:].expand_as(spread)) == 0


def test_dropout_stands_between_layers_and_before_the_output():
    one, two = make("gru", layers=1, dropout=0.4), make("gru", layers=2, dropout=0.4)
    with drawn_from(1):
        between = gap(two.train().read(text())[1].tensors[0][:, 1], two.eval().read(text())[1].tensors[0][:, 1])
    assert between > 1e-3
    assert one.read(text())[1].tensors[0].equal(one.train().read(text())[1].tensors[0])
    zeros = (two.train().read(text(8, 50))[0] == 0).float().mean().item()
    assert zeros == pytest.approx(0.4, abs=0.05)


@FAMILY
def test_recurrent_dropout_hides_some_of_the_memory_from_the_next_position(kind):
    model = make(kind, recurrent_dropout=0.5, dropout=0.0).train()
    plain = make(kind, dropout=0.0).train()
    with drawn_from(1):
        once = model.read(text(1, 6))[0]
    with drawn_from(1):
        again = model.read(text(1, 6))[0]
    free = plain.read(text(1, 6))[0]
    assert torch.equal(once, again)
    assert gap(once[:, 0], free[:, 0]) < 1e-6  # nothing is remembered before the first position
    assert gap(once[:, 1:], free[:, 1:]) > 1e-3
    assert gap(model.eval().read(text(1, 6))[0], plain.eval().read(text(1, 6))[0]) == 0


def test_the_family_uses_the_library_networks():
    assert [type(make(kind).recurrent) for kind in ("rnn", "lstm", "gru")] == [nn.RNN, nn.LSTM, nn.GRU]
