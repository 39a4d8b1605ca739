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
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 4), (7, 3, 5, 24), (20, 8, 64, 128), (5, 17, 65, 44), (3, 40, 33, 32), (70, 9, 6, 8)]
)
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
    entered, state, weights = operands("lstm", 12, 4, 6, 12)
    with half:
        whole, *_ = recurrence.layer(entered, state, weights)
        first, *between = recurrence.layer(entered[:5], state, weights)
        second, *_ = recurrence.layer(entered[5:], between, weights)
    assert torch.equal(torch.cat([first, second]), whole)


@pairs
def test_going_back_twice_is_refused():
    given = operands("lstm", 3, 2, 4, 8)
    with half:
        total = recurrence.layer(*given)[0].float().sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="went back through this layer before"):
        total.backward()


@pairs
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_no_number_stays_so(cell):
    entered, state, weights = operands(cell, 4, 3, 5, 8)
    with torch.no_grad(), half:
        entered[1, 2, 3] = torch.nan
        hidden = recurrence.layer(entered, state, weights)[0]
    assert hidden[1:, 2].isnan().all()
    assert hidden[:, :2].isfinite().all()


@pairs
def test_it_suits_bfloat16_and_few_rows_of_an_lstm():
    torch.set_num_threads(1)
    few, many = torch.zeros(2, 24, 3), torch.zeros(2, 25, 3)
    assert not recurrence.suits(few, 8, 2)
    with half:
        assert recurrence.suits(few, 8, 2)
        assert not recurrence.suits(many, 8, 2)
        assert recurrence.suits(many, 8, 1)
        assert not recurrence.suits(few, 6, 2)
        assert not recurrence.suits(few[:, :0], 8, 2)


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
@pytest.mark.parametrize("length", [18, 17])
@pytest.mark.parametrize("columns", [1, 31, 32, 100])
def test_a_product_of_packed_numbers_is_the_product(length, columns):
    rng = np.random.default_rng(0)
    rows, matrix = (rng.normal(size=shape).astype(np.float32) for shape in ((16, length + 1), (length + 1, columns)))
    matrix[length:] = 0
    scale, rows = rng.normal(size=columns).astype(np.float32), torch.from_numpy(rows).bfloat16()
    rows, rounded = rows[:, : length + length % 2], torch.from_numpy(matrix)[: length + length % 2]
    expected = rows.float() @ (rounded * torch.from_numpy(scale)).bfloat16().float()
    for way in ("as it is", "transposed", "bfloat16"):
        pairs = arithmetic.room_to_pack(len(rounded), columns)
        if way == "transposed":
            whole = np.ascontiguousarray((matrix * scale)[:length].T)
            arithmetic.pack_transposed(whole, np.ones(length, np.float32), 0, 0, pairs)
        elif way == "as it is":
            arithmetic.pack(rounded.numpy(), False, 0, scale, 0, 0, pairs)
        else:
            rounded = rounded.bfloat16()
            expected = rows.float() @ (rounded.float() * torch.from_numpy(scale)).bfloat16().float()
            arithmetic.pack(rounded.view(torch.uint16).numpy(), True, 0, scale, 0, 0, pairs)
        results = np.full((16, arithmetic.packed_columns(columns)), np.nan, np.float32)
        arithmetic.product(rows.contiguous().view(torch.uint16).numpy(), pairs, results, False)
        np.testing.assert_allclose(results[:, :columns], expected.numpy(), atol=1e-5)
        assert not results[:, columns:].any()
        arithmetic.product(rows.contiguous().view(torch.uint16).numpy(), pairs, results, True)
        np.testing.assert_allclose(results[:, :columns], 2 * expected.numpy(), atol=2e-5)


@pairs
def test_parts_of_matrices_are_packed_beside_each_other():
    left, right = torch.randn(6, 40), torch.randn(6, 50)
    whole = torch.cat([left[:, 3:33], right], 1).numpy()
    pairs_whole, parts = arithmetic.room_to_pack(8, 80), arithmetic.room_to_pack(8, 80)
    ones = np.ones(80, np.float32)
    arithmetic.pack(whole, False, 0, ones, 2, 0, pairs_whole)
    arithmetic.pack(left.numpy(), False, 3, ones[:30], 2, 0, parts)
    arithmetic.pack(right.numpy(), False, 0, ones[:50], 2, 30, parts)
    assert (pairs_whole == parts).all()
    turned = arithmetic.room_to_pack(8, 80)
    arithmetic.pack_transposed(np.ascontiguousarray(whole.T), ones[:6], 2, 0, turned)
    assert (pairs_whole == turned).all()


def test_halves_are_transposed_in_pairs():
    halves = torch.randn(6, 32).bfloat16()
    pairs_MP = np.empty((32, 3), np.uint32)
    arithmetic.transpose_halves(halves.view(torch.uint16).numpy(), pairs_MP)
    assert (pairs_MP.view(np.uint16) == halves.view(torch.uint16).numpy().T).all()


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
