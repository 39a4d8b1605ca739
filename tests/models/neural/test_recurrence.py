"""Shapes: T positions, B sequences, E input, H hidden."""

import numba
import numpy as np
import pytest
import torch
from torch import nn

from lmlab.models.neural import arithmetic, recurrence
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


def gradients(after, entered_TBE, state, weights):
    torch.manual_seed(1)
    given = [torch.randn(part.shape).to(part.dtype) for part in after]
    return torch.autograd.grad(list(after), [entered_TBE, *state, *weights], given)


def error(got, expected):
    return ((got.float() - expected).norm() / expected.norm()).item()


@pairs
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 3, 5, 24), (20, 8, 64, 128), (5, 17, 65, 41), (3, 40, 33, 32)])
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_is_torchs_and_no_less_exact_than_torchs_in_bfloat16(cell, shape, masked):
    given = operands(cell, *shape)
    kept_H = (torch.rand(shape[-1]) < 0.7) / 0.7 if masked else None
    expected = plain(cell, *given, kept_H)
    wanted = gradients(expected, *given)
    with half:
        got, theirs = recurrence.layer(*given, kept_H), plain(cell, *given, kept_H)
    for part, whole, rival in zip(
        (*got, *gradients(got, *given)), (*expected, *wanted), (*theirs, *gradients(theirs, *given)), strict=True
    ):
        assert part.shape == whole.shape
        assert error(part, whole) < max(0.01, 1.5 * error(rival, whole))


@pairs
@pytest.mark.parametrize("cell", CELLS)
def test_threads_share_the_rows_and_change_no_bit(cell):
    given = operands(cell, 9, 30, 12, 20)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with half:
            after = recurrence.layer(*given)
        entered, *state_and_weights = gradients(after, *given)
        results.append((after, entered, state_and_weights[: len(given[1])], state_and_weights))
    (one, entered_one, state_one, rest_one), (two, entered_two, state_two, rest_two) = results
    for a, b in zip((*one, entered_one, *state_one), (*two, entered_two, *state_two), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(rest_one, rest_two, strict=True):
        assert error(a, b) < 1e-6  # of biases, whose sums are parted


@pairs
def test_a_text_in_pieces_is_the_text(monkeypatch):
    entered, state, weights = operands("lstm", 12, 4, 6, 10)
    with half:
        whole, *_ = recurrence.layer(entered, state, weights)
        first, *between = recurrence.layer(entered[:5], state, weights)
        second, *_ = recurrence.layer(entered[5:], between, weights)
    assert torch.equal(torch.cat([first, second]), whole)


@pairs
def test_going_back_twice_is_refused():
    given = operands("lstm", 3, 2, 4, 6)
    with half:
        total = recurrence.layer(*given)[0].float().sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="went back through this layer before"):
        total.backward()


@pairs
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_no_number_stays_so(cell):
    entered, state, weights = operands(cell, 4, 3, 5, 6)
    with torch.no_grad(), half:
        entered[1, 2, 3] = torch.nan
        hidden = recurrence.layer(entered, state, weights)[0]
    assert hidden[1:, 2].isnan().all()
    assert hidden[:, :2].isfinite().all()


@pairs
def test_it_suits_bfloat16_and_few_rows_of_an_lstm():
    torch.set_num_threads(1)
    few, many = torch.zeros(2, 24, 3), torch.zeros(2, 25, 3)
    assert not recurrence.suits(few, 2)
    with half:
        assert recurrence.suits(few, 2)
        assert not recurrence.suits(many, 2)
        assert recurrence.suits(many, 1)
        assert not recurrence.suits(few[:, :0], 2)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_processor_without_the_instruction_has_torchs(kind, monkeypatch):
    monkeypatch.setattr(arithmetic, "multiplies_pairs", lambda: False)
    monkeypatch.setattr(recurrence, "layer", None)
    model = kind(kind.Settings(hidden=8, embedding=4), 20)
    with half:
        nats, _ = model.loss(torch.full((2, 5), 7), torch.full((2, 5), 8), None)
    nats.backward()
    assert model.recurrent.weight_hh_l0.grad.isfinite().all()


@pairs
@pytest.mark.parametrize("columns", [1, 31, 32, 100])
def test_a_product_of_packed_numbers_is_the_product(columns):
    rng = np.random.default_rng(0)

    def numbers(*shape):
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32)).bfloat16()

    rows, matrix = numbers(16, 18), numbers(18, columns)
    bits = [tensor.contiguous().view(torch.uint16).numpy() for tensor in (rows, matrix, matrix.T)]
    for packed in (arithmetic.pack(bits[1]), arithmetic.pack_transposed(bits[2])):
        results = np.full((16, arithmetic.packed_columns(columns)), np.nan, np.float32)
        arithmetic.product(bits[0], packed, results)
        np.testing.assert_allclose(results[:, :columns], (rows.float() @ matrix.float()).numpy(), atol=1e-5)
        assert not results[:, columns:].any()


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
