"""Shapes: T positions, B sequences, E input, H hidden."""

import numba
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lmlab.kernels.neural import matmul as arithmetic
from lmlab.kernels.neural import recurrent
from lmlab.models.neural.rnn import GRU, LSTM

pairs = pytest.mark.skipif(not arithmetic.multiplies_pairs(), reason="this processor has no AVX512-BF16")
half = torch.autocast("cpu", torch.bfloat16)
CELLS = {"lstm": (nn.LSTM, torch.lstm, 2), "gru": (nn.GRU, torch.gru, 1)}


def operands(cell, length, rows, width, hidden, seed=0):
    """Input, state, weights: all of them learned."""
    torch.manual_seed(seed)
    network, _, parts = CELLS[cell]
    entered_TBE = torch.randn(length, rows, width, requires_grad=True)
    state = [(0.3 * torch.randn(1, rows, hidden)).requires_grad_() for _ in range(parts)]
    return entered_TBE, state, list(network(width, hidden).parameters())


def plain(cell, entered_TBE, state, weights, kept_H=None):
    _, function, parts = CELLS[cell]
    enter, recur, *biases = weights
    recur = recur if kept_H is None else recur * kept_H
    return function(
        entered_TBE, tuple(state) if parts > 1 else state[0], [enter, recur, *biases], True, 1, 0.0, True, False, False
    )


def ours(entered_TBE, state, weights, kept_H=None):
    enter, recur, enter_bias, bias = weights
    return recurrent.layer(F.linear(entered_TBE, enter, enter_bias), None, state, recur, bias, kept_H)


def gradients(after, entered_TBE, state, weights):
    torch.manual_seed(1)
    given = [torch.randn(part.shape).to(part.dtype) for part in after]
    return torch.autograd.grad(list(after), [entered_TBE, *state, *weights], given)


def error(got, expected):
    return ((got.float() - expected).norm() / expected.norm()).item()


@pairs
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 8, 16), (7, 3, 5, 48), (20, 8, 64, 128), (5, 17, 65, 80), (3, 40, 33, 32), (70, 9, 6, 16)]
)
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_is_torchs_and_no_less_exact_than_torchs_in_bfloat16(cell, shape, masked):
    given = operands(cell, *shape)
    kept_H = (torch.rand(shape[-1]) < 0.7) / 0.7 if masked else None
    expected = plain(cell, *given, kept_H)
    wanted = gradients(expected, *given)
    with half:
        got, theirs = ours(*given, kept_H), plain(cell, *given, kept_H)
    for part, whole, rival in zip(
        (*got, *gradients(got, *given)), (*expected, *wanted), (*theirs, *gradients(theirs, *given)), strict=True
    ):
        assert part.shape == whole.shape
        assert error(part, whole) < max(0.01, 1.5 * error(rival, whole))


@pairs
@pytest.mark.parametrize("cell", CELLS)
def test_threads_share_the_rows_and_change_no_bit(cell):
    given = operands(cell, 9, 30, 12, 48)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with half:
            after = ours(*given)
        entered, *state_and_weights = gradients(after, *given)
        results.append((after, entered, state_and_weights[: len(given[1])], state_and_weights))
    (one, entered_one, state_one, rest_one), (two, entered_two, state_two, rest_two) = results
    for a, b in zip((*one, entered_one, *state_one), (*two, entered_two, *state_two), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(rest_one, rest_two, strict=True):
        assert error(a, b) < 1e-6  # of biases, whose sums are parted


@pairs
def test_a_text_in_pieces_is_the_text(monkeypatch):
    entered, state, weights = operands("lstm", 12, 4, 6, 16)
    with half:
        whole, *_ = ours(entered, state, weights)
        first, *between = ours(entered[:5], state, weights)
        second, *_ = ours(entered[5:], between, weights)
    assert torch.equal(torch.cat([first, second]), whole)


@pairs
def test_going_back_twice_is_refused():
    given = operands("lstm", 3, 2, 4, 16)
    with half:
        total = ours(*given)[0].float().sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="went back through this layer before"):
        total.backward()


@pairs
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_no_number_stays_so(cell):
    entered, state, weights = operands(cell, 4, 3, 5, 16)
    with torch.no_grad(), half:
        entered[1, 2, 3] = torch.nan
        hidden = ours(entered, state, weights)[0]
    assert hidden[1:, 2].isnan().all()
    assert hidden[:, :2].isfinite().all()


@pairs
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", CELLS)
def test_what_tokens_add_may_be_looked_up(cell, kind):
    """As many tokens as positions, so that neither can be taken for the other."""
    table_VE, state, weights = operands(cell, 12, 3, 6, 16)
    table_VE, (enter, recur, enter_bias, bias) = table_VE.detach().flatten(0, 1).requires_grad_(), weights
    tokens_TB = torch.randint(36, (12, 3))
    results = []
    for looked_up in (True, False):
        inputs_VF = F.linear(table_VE, enter, enter_bias).to(kind)
        inputs, tokens = (inputs_VF, tokens_TB) if looked_up else (inputs_VF[tokens_TB], None)
        after = recurrent.layer(inputs, tokens, state, recur, bias)
        results.append((after, gradients(after, table_VE, state, weights)))
    (one, gradients_one), (other, gradients_other) = results
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(error(a, b) < 0.005 for a, b in zip(gradients_one, gradients_other, strict=True))


@pairs
def test_it_suits_bfloat16_and_whole_tiles():
    ids_TB = torch.zeros(2, 25)
    assert not recurrent.suits(ids_TB, 16)
    with half:
        assert recurrent.suits(ids_TB, 16)
        assert not recurrent.suits(ids_TB, 24)
        assert not recurrent.suits(ids_TB[:, :0], 16)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_processor_without_the_instruction_has_torchs(kind, monkeypatch):
    monkeypatch.setattr(arithmetic, "multiplies_pairs", lambda: False)
    monkeypatch.setattr(recurrent, "layer", None)
    model = kind(kind.Settings(hidden=8, embedding=4), 20)
    with half:
        nats, _ = model.loss(torch.full((2, 5), 7), torch.full((2, 5), 8), None)
    nats.backward()
    assert model.recurrent.weight_hh_l0.grad.isfinite().all()


@pairs
@pytest.mark.parametrize("columns", [2, 30, 32, 100])
@pytest.mark.parametrize("way", ["of halves", "as it is", "transposed"])
def test_a_product_of_packed_numbers_is_the_product(way, columns):
    rows, matrix = torch.randn(16, 22).bfloat16(), torch.randn(18, columns)
    pairs, other = arithmetic.room_to_pack(18, columns), arithmetic.room_to_pack(columns, 18)
    if way == "of halves":
        scale, matrix = torch.randn(columns), matrix.bfloat16().float()
        arithmetic.pack(matrix.bfloat16().view(torch.uint16).numpy(), scale.numpy(), pairs)
    elif way == "as it is":
        scale = torch.randn(columns)
        arithmetic.pack_weights(matrix.numpy(), scale.numpy(), pairs, other)
    else:
        scale = torch.randn(18, 1)
        arithmetic.pack_weights(matrix.T.contiguous().numpy(), scale[:, 0].numpy(), other, pairs)
    expected = (rows[:, :18].float() @ (matrix * scale).bfloat16().float()).numpy()
    results = np.full((16, arithmetic.packed_columns(columns)), np.nan, np.float32)
    for times, add in ((1, False), (2, True)):
        arithmetic.product(rows.view(torch.uint16).numpy(), pairs, results, add)
        np.testing.assert_allclose(results[:, :columns], times * expected, atol=2e-5)
        assert not results[:, columns:].any()


@pytest.mark.parametrize("columns", [16, 32])
def test_halves_are_transposed_in_pairs(columns):
    halves = torch.randn(6, 32).bfloat16()
    pairs_MP = np.empty((columns, 3), np.uint32)
    arithmetic.transpose_halves(halves.view(torch.uint16).numpy(), pairs_MP)
    assert (pairs_MP.view(np.uint16) == halves.view(torch.uint16).numpy().T[:columns]).all()


def test_the_functions_are_what_they_say():
    @numba.njit(fastmath={"contract"})
    def each_of(x, out):
        for i in range(len(x)):
            out[i, 0] = arithmetic.exp(x[i])
            out[i, 1] = arithmetic.sigmoid(x[i])
            out[i, 2] = arithmetic.tanh(x[i])
            out[i, 3] = arithmetic.widened(arithmetic.halved(x[i]))

    x = np.concatenate([[-1e30, np.nan], np.linspace(-80, 80, 4001)]).astype(np.float32)
    out = np.empty((len(x), 4), np.float32)
    each_of(x, out)
    wide = torch.from_numpy(x).double().numpy()
    assert out[0].tolist()[:3] == pytest.approx([0, 0, -1], abs=1e-37)
    assert np.isnan(out[1]).all()
    assert np.abs(out[2:, 0] / np.exp(wide[2:]) - 1).max() < 3e-7
    np.testing.assert_allclose(out[2:, 1], 1 / (1 + np.exp(-wide[2:])), rtol=1e-6)
    np.testing.assert_allclose(out[2:, 2], np.tanh(wide[2:]), atol=3e-7)
    assert (out[2:, 3] == torch.from_numpy(x[2:]).bfloat16().float().numpy()).all()
