"""Shapes: T positions, B sequences, E input, H hidden, V the vocabulary."""

import numba
import numpy as np
import pytest
import torch
from torch import nn

from lmlab.kernels import exponential
from lmlab.kernels.neural import matmul
from lmlab.kernels.neural.recurrent import compiled_layer, plain_layer, plain_step

bfloat16 = pytest.mark.skipif(not matmul.has_bfloat16(), reason="this processor has no AVX512-BF16")
autocast = torch.autocast("cpu", torch.bfloat16)
CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
COMPILED = pytest.mark.parametrize("cell", ["lstm", "gru"])


def operands(cell, length, rows, width, hidden, seed=0):
    """Input, state, weights: all of them learned."""
    torch.manual_seed(seed)
    entered_TBE = torch.randn(length, rows, width, requires_grad=True)
    state = [(0.3 * torch.randn(1, rows, hidden)).requires_grad_() for _ in range(1 + (cell == "lstm"))]
    return entered_TBE, state, list(CELLS[cell](width, hidden).parameters())


def read(twin, cell, entered_TBE, state, weights, mask_H=None):
    return twin(cell, entered_TBE, None, state, weights, mask_H)


def gradients(after, entered_TBE, state, weights):
    torch.manual_seed(1)
    given = [torch.randn(part.shape).to(part.dtype) for part in after]
    return torch.autograd.grad(list(after), [entered_TBE, *state, *weights], given)


def error(got, expected):
    return ((got.float() - expected).norm() / expected.norm()).item()


@bfloat16
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 8, 16), (7, 3, 5, 48), (20, 8, 64, 128), (5, 17, 65, 80), (3, 40, 33, 32), (70, 9, 6, 16)]
)
@COMPILED
def test_the_compiled_twin_is_no_less_exact_than_the_plain_one_in_bfloat16(cell, shape, masked):
    given = operands(cell, *shape)
    mask_H = (torch.rand(shape[-1]) < 0.7) / 0.7 if masked else None
    expected = read(plain_layer, cell, *given, mask_H)
    wanted = gradients(expected, *given)
    with autocast:
        got, theirs = (read(twin, cell, *given, mask_H) for twin in (compiled_layer, plain_layer))
    for part, whole, rival in zip(
        (*got, *gradients(got, *given)), (*expected, *wanted), (*theirs, *gradients(theirs, *given)), strict=True
    ):
        assert part.shape == whole.shape
        assert error(part, whole) < max(0.01, 1.5 * error(rival, whole))


@bfloat16
@COMPILED
def test_threads_share_the_rows_and_change_no_bit(cell):
    given = operands(cell, 9, 30, 12, 48)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with autocast:
            after = read(compiled_layer, cell, *given)
        entered, *state_and_weights = gradients(after, *given)
        results.append((after, entered, state_and_weights[: len(given[1])], state_and_weights))
    (one, entered_one, state_one, rest_one), (two, entered_two, state_two, rest_two) = results
    for a, b in zip((*one, entered_one, *state_one), (*two, entered_two, *state_two), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(rest_one, rest_two, strict=True):
        assert error(a, b) < 1e-6  # of biases, whose sums are parted


@bfloat16
def test_a_text_in_pieces_is_the_text():
    entered, state, weights = operands("lstm", 12, 4, 6, 16)
    with autocast:
        whole, *_ = read(compiled_layer, "lstm", entered, state, weights)
        first, *between = read(compiled_layer, "lstm", entered[:5], state, weights)
        second, *_ = read(compiled_layer, "lstm", entered[5:], between, weights)
    assert torch.equal(torch.cat([first, second]), whole)


@bfloat16
def test_a_second_backward_is_refused():
    given = operands("lstm", 3, 2, 4, 16)
    with autocast:
        total = read(compiled_layer, "lstm", *given)[0].float().sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward ran through this layer before"):
        total.backward()


@bfloat16
@COMPILED
def test_what_is_no_number_stays_so(cell):
    entered, state, weights = operands(cell, 4, 3, 5, 16)
    with torch.no_grad(), autocast:
        entered[1, 2, 3] = torch.nan
        hidden = read(compiled_layer, cell, entered, state, weights)[0]
    assert hidden[1:, 2].isnan().all()
    assert hidden[:, :2].isfinite().all()


@bfloat16
@pytest.mark.parametrize("entering", ["table", "one-hot"])
@COMPILED
def test_few_tokens_are_looked_up_and_many_multiplied(cell, entering):
    """As many tokens as positions, so that neither can be taken for the other; one more, and no table is made."""
    tokens_TB = torch.randint(1, 36, (12, 3))
    for vocab_size in (36, 37):
        width = 6 if entering == "table" else vocab_size
        _, state, weights = operands(cell, 12, 3, width, 16)
        table_VE = torch.randn(vocab_size, 6, requires_grad=True) if entering == "table" else None
        learned = [*state, *weights] if table_VE is None else [table_VE, *state, *weights]
        found = []
        for twin in (compiled_layer, plain_layer):
            after = twin(cell, tokens_TB, table_VE, state, weights)
            given = [torch.linspace(-1, 1, part.numel()).view_as(part).to(part.dtype) for part in after]
            found.append([*after, *torch.autograd.grad(after, learned, given)])
        assert all(error(a, b) < 0.02 for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_is_a_layer_of_one_position(cell, masked):
    given = operands(cell, 1, 5, 7, 9)
    mask_H = (torch.rand(9) < 0.7) / 0.7 if masked else None
    for one, other in zip(*(read(twin, cell, *given, mask_H) for twin in (plain_step, plain_layer)), strict=True):
        torch.testing.assert_close(one, other)


@bfloat16
@pytest.mark.parametrize("columns", [2, 30, 32, 100])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_of_a_packed_matrix_is_the_product(transposed, columns):
    rows, matrix = torch.randn(16, 22).bfloat16(), torch.randn(18, columns).bfloat16()
    pairs = matmul.room_to_pack(18, columns)
    given = matrix.T.contiguous() if transposed else matrix
    (matmul.pack_transposed if transposed else matmul.pack)(given.view(torch.uint16).numpy(), pairs)
    expected = (rows[:, :18].float() @ matrix.float()).numpy()
    results = np.full((16, matmul.packed_columns(columns)), np.nan, np.float32)
    for times, add in ((1, False), (2, True)):
        matmul.product(rows.view(torch.uint16).numpy(), pairs, results, add)
        np.testing.assert_allclose(results[:, :columns], times * expected, atol=2e-5)
        assert not results[:, columns:].any()


@pytest.mark.parametrize("columns", [16, 32])
def test_bfloat16_is_transposed_in_pairs(columns):
    halves = torch.randn(6, 32).bfloat16()
    pairs_MP = np.empty((columns, 3), np.uint32)
    matmul.transpose_in_pairs(halves.view(torch.uint16).numpy(), pairs_MP)
    assert (pairs_MP.view(np.uint16) == halves.view(torch.uint16).numpy().T[:columns]).all()


def test_the_functions_are_what_they_say():
    @numba.njit(fastmath={"contract"})
    def each_of(x, out):
        for i in range(len(x)):
            out[i, 0] = exponential.exp(x[i])
            out[i, 1] = exponential.sigmoid(x[i])
            out[i, 2] = exponential.tanh(x[i])
            out[i, 3] = matmul.widen(matmul.narrow(x[i]))

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
