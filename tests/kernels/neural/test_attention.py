"""Shapes: B sequences, A heads, T queries, S keys, F features of a head."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab import kernels
from lmlab.kernels.neural import matmul
from lmlab.kernels.neural.attention import compiled_attention, plain_attention, rotate
from lmlab.models.neural.transformer import Transformer

bfloat16 = pytest.mark.skipif(not matmul.has_bfloat16(), reason="this processor has no AVX512-BF16")
autocast = torch.autocast("cpu", torch.bfloat16)


def operands(rows, heads, length, past, features, seed=0):
    torch.manual_seed(seed)
    sizes = (length, past + length, past + length)
    parts = [torch.randn(rows, heads, size, features).bfloat16().requires_grad_() for size in sizes]
    return [*parts, torch.randint(past + 1, (rows,))]


def error(got, expected, least=0.0):
    """The share that is wrong; where terms cancel, of `least`, lest chance decide."""
    return ((got.double() - expected).norm() / expected.norm().clamp(min=least)).item()


shapes = st.tuples(
    *(st.integers(1, 3), st.integers(1, 3), st.integers(1, 150), st.integers(0, 150)),
    st.integers(2, 40).map(lambda half: 2 * half),
)


@bfloat16
@settings(deadline=None)
@given(shapes, st.integers(1, 200), st.sampled_from([1, 2]))
def test_the_compiled_twin_is_no_less_exact_than_the_plain_one_in_bfloat16(shape, window, threads):
    torch.set_num_threads(threads)
    *parts, missing_B = operands(*shape)
    exact = [part.detach().double().requires_grad_() for part in parts]
    found = []
    for twin, given_to in ((compiled_attention, parts), (plain_attention, exact), (plain_attention, parts)):
        seen = twin(*given_to, missing_B, window)
        grad = torch.linspace(-1, 1, seen.numel()).view_as(seen).bfloat16().to(seen.dtype)
        found.append([seen, *torch.autograd.grad(seen, given_to, grad)])
    for got, whole, rival in zip(*found, strict=True):
        assert got.shape == whole.shape
        assert error(got, whole, grad.norm() / 10) < max(0.03, 1.5 * error(rival, whole, grad.norm() / 10))


@bfloat16
@pytest.mark.parametrize(("length", "past", "window", "missing"), [(70, 90, 40, 30), (9, 0, 3, 0), (65, 31, 500, 31)])
def test_what_is_not_seen_changes_no_bit_and_learns_nothing(length, past, window, missing):
    queries, keys, values, _ = operands(1, 2, length, past, 16)
    missing_B = torch.tensor([missing])
    before = compiled_attention(queries, keys, values, missing_B, window)
    for at in (0, length // 2, length - 1):
        place, hidden = past + at, torch.ones(past + length, dtype=torch.bool)
        hidden[max(missing, place - window + 1) : place + 1] = False
        other_keys = torch.where(hidden[:, None], torch.randn_like(keys), keys)
        other_values = torch.where(hidden[:, None], torch.full_like(values, 1e30), values)
        after = compiled_attention(queries, other_keys, other_values, missing_B, window)
        assert torch.equal(before[:, :, at], after[:, :, at])
        by_keys, by_values = torch.autograd.grad(before[:, :, at].float().sum(), (keys, values), retain_graph=True)
        assert not by_keys[:, :, hidden].any()
        assert not by_values[:, :, hidden].any()
        assert by_values[:, :, ~hidden].all()


@bfloat16
def test_threads_change_no_bit():
    *parts, missing_B = operands(3, 2, 70, 20, 24)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen = compiled_attention(*parts, missing_B, 50)
        found.append([seen, *torch.autograd.grad(seen.float().square().sum(), parts)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@bfloat16
def test_what_is_no_number_stays_so():
    queries, keys, values, _ = operands(2, 1, 9, 0, 4)
    with torch.no_grad():
        keys[1, 0, 5, 2] = torch.nan
    seen = compiled_attention(queries, keys, values, torch.zeros(2, dtype=torch.int64), 3)
    assert seen[1, 0, 5:8].isnan().all()
    assert seen[0].isfinite().all()


@bfloat16
@pytest.mark.parametrize("window", [7, 64])
def test_a_model_reads_on_no_less_exactly_than_by_the_plain_twin_in_bfloat16(window):
    torch.manual_seed(0)
    model = Transformer(Transformer.Settings(width=32, heads=2, layers=2, window=window), 40).train()
    ids_BT, learned = torch.randint(4, 40, (5, 60)), dict(model.named_parameters())
    learned = [part for name, part in learned.items() if not name.startswith("output")]

    def found():
        first, state = model.read(ids_BT[:, :33])
        second, _ = model.read(ids_BT[:, 33:], state)
        features_BTH = torch.cat([first, second], 1).float()
        weights_BTH = torch.linspace(-1, 1, features_BTH.numel()).view_as(features_BTH)
        return [features_BTH, *torch.autograd.grad((features_BTH * weights_BTH).sum(), learned)]

    expected = found()
    with autocast:
        got = found()
        with kernels.only(False):
            theirs = found()
    assert not torch.equal(got[0], theirs[0]), "the same way twice"
    for part, rival, whole in zip(got, theirs, expected, strict=True):
        assert error(part, whole) < max(0.02, 1.5 * error(rival, whole))


def test_rotation_keeps_lengths_and_depends_on_the_distance_alone():
    x = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    y = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(1))
    assert rotate(x, 7).norm() == pytest.approx(x.norm().item(), rel=1e-5)
    products = [(rotate(x, at) * rotate(y, at + 3)).sum().item() for at in (0, 5, 100)]
    assert products == pytest.approx([products[0]] * 3, abs=1e-4)
    assert (rotate(x, 0) * rotate(y, 4)).sum().item() != pytest.approx(products[0], abs=1e-3)
