"""Shapes: B sequences, A heads, T queries, S keys, F features of a head."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lmlab.kernels.neural import attention, bridge
from lmlab.kernels.neural import matmul as arithmetic
from lmlab.models.neural.transformer import Transformer, _rotate, _turns, _unit

pairs = pytest.mark.skipif(not arithmetic.multiplies_pairs(), reason="this processor has no AVX512-BF16")
half = torch.autocast("cpu", torch.bfloat16)


def ours(queries, keys, values, missing_B, window):
    return attention.attend(queries, keys, values, _turns(0, keys.shape[2], keys), missing_B, window)


def plain(queries, keys, values, missing_B, window):
    count, past = keys.shape[2], keys.shape[2] - queries.shape[2]
    queries, keys = _rotate(_unit(queries), past), _rotate(_unit(keys), 0)
    distance = torch.arange(past, count)[:, None] - torch.arange(count)
    seen = (distance >= 0) & (distance < window) & (torch.arange(count) >= missing_B[:, None])[:, None, None]
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)


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


@pairs
@settings(deadline=None)
@given(shapes, st.integers(1, 200), st.sampled_from([1, 2]))
def test_attention_is_torchs_and_no_less_exact_than_torchs_in_bfloat16(shape, window, threads):
    torch.set_num_threads(threads)
    *parts, missing_B = operands(*shape)
    exact = [part.detach().double().requires_grad_() for part in parts]
    found = []
    for attend, given_to in ((ours, parts), (plain, exact), (plain, parts)):
        seen = attend(*given_to, missing_B, window)
        grad = torch.linspace(-1, 1, seen.numel()).view_as(seen).bfloat16().to(seen.dtype)
        found.append([seen, *torch.autograd.grad(seen, given_to, grad)])
    for got, whole, rival in zip(*found, strict=True):
        assert got.shape == whole.shape
        assert error(got, whole, grad.norm() / 10) < max(0.03, 1.5 * error(rival, whole, grad.norm() / 10))


@pairs
@pytest.mark.parametrize(("length", "past", "window", "missing"), [(70, 90, 40, 30), (9, 0, 3, 0), (65, 31, 500, 31)])
def test_what_is_not_seen_changes_no_bit_and_learns_nothing(length, past, window, missing):
    queries, keys, values, _ = operands(1, 2, length, past, 16)
    missing_B = torch.tensor([missing])
    before = ours(queries, keys, values, missing_B, window)
    for at in (0, length // 2, length - 1):
        place, hidden = past + at, torch.ones(past + length, dtype=torch.bool)
        hidden[max(missing, place - window + 1) : place + 1] = False
        other_keys = torch.where(hidden[:, None], torch.randn_like(keys), keys)
        other_values = torch.where(hidden[:, None], torch.full_like(values, 1e30), values)
        after = ours(queries, other_keys, other_values, missing_B, window)
        assert torch.equal(before[:, :, at], after[:, :, at])
        by_keys, by_values = torch.autograd.grad(before[:, :, at].float().sum(), (keys, values), retain_graph=True)
        assert not by_keys[:, :, hidden].any()
        assert not by_values[:, :, hidden].any()
        assert by_values[:, :, ~hidden].all()


@pairs
def test_threads_change_no_bit():
    *parts, missing_B = operands(3, 2, 70, 20, 24)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen = ours(*parts, missing_B, 50)
        found.append([seen, *torch.autograd.grad(seen.float().square().sum(), parts)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pairs
def test_what_is_no_number_stays_so():
    queries, keys, values, _ = operands(2, 1, 9, 0, 4)
    with torch.no_grad():
        keys[1, 0, 5, 2] = torch.nan
    seen = ours(queries, keys, values, torch.zeros(2, dtype=torch.int64), 3)
    assert seen[1, 0, 5:8].isnan().all()
    assert seen[0].isfinite().all()


@pairs
@pytest.mark.parametrize("window", [7, 64])
def test_a_model_reads_on_no_less_exactly_than_torchs_in_bfloat16(window, monkeypatch):
    torch.manual_seed(0)
    model = Transformer(Transformer.Settings(width=32, heads=2, layers=2, window=window), 40).train()
    ids_BT, learned = torch.randint(4, 40, (5, 60)), dict(model.named_parameters())
    learned = [part for name, part in learned.items() if not name.startswith("output")]

    def found():
        first, state = model.features(ids_BT[:, :33], None)
        second, _ = model.features(ids_BT[:, 33:], state)
        features_BTH = torch.cat([first, second], 1).float()
        weights_BTH = torch.linspace(-1, 1, features_BTH.numel()).view_as(features_BTH)
        return [features_BTH, *torch.autograd.grad((features_BTH * weights_BTH).sum(), learned)]

    expected = found()
    with half:
        got = found()
        monkeypatch.setattr(bridge, "suits", lambda _: False)
        theirs = found()
    assert not torch.equal(got[0], theirs[0]), "the same way twice"
    for part, rival, whole in zip(got, theirs, expected, strict=True):
        assert error(part, whole) < max(0.02, 1.5 * error(rival, whole))


def test_a_processor_without_the_instruction_has_torchs(monkeypatch):
    monkeypatch.setattr(arithmetic, "multiplies_pairs", lambda: False)
    monkeypatch.setattr(attention, "attend", None)
    model = Transformer(Transformer.Settings(width=8, heads=2, layers=1, window=4), 20)
    with half:
        nats, _ = model.loss(torch.full((2, 5), 7), torch.full((2, 5), 8), None)
    nats.backward()
    assert model.blocks[0].project.weight.grad.isfinite().all()
