"""Shapes: B sequences, S positions before and T after, C channels before and M after, K taps, V the vocabulary."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lmlab.kernels.neural import bridge, convolution
from lmlab.kernels.neural import matmul as arithmetic
from lmlab.models.neural.cnn import CNN

pairs = pytest.mark.skipif(not arithmetic.multiplies_pairs(), reason="this processor has no AVX512-BF16")
half = torch.autocast("cpu", torch.bfloat16)
ROUNDING = 2.0**-8  # of a bfloat16, as a share of it


def filtered(hidden_BSC, weight_MC1K, bias_M, dilation):
    new_BM1T = F.conv2d(hidden_BSC.transpose(1, 2).unsqueeze(2), weight_MC1K, bias_M, dilation=(1, dilation))
    return new_BM1T.squeeze(2).transpose(1, 2)


def near(got, expected, relative, absolute):
    assert got.shape == expected.shape
    assert ((got.double() - expected).abs() <= relative * expected.abs() + absolute).all()


widths = st.integers(1, 40).map(lambda half: 2 * half)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 150), widths, widths, st.integers(1, 6), st.integers(1, 4))


@pairs
@settings(deadline=None)
@given(shapes, st.booleans(), st.sampled_from([1, 2]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_layer_is_exact_but_for_the_rounding_of_what_it_reads_and_writes(shape, rectify, threads, kind):
    rows, length, channels, filters, taps, dilation = shape
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    hidden_BSC = torch.randn(rows, length + (taps - 1) * dilation, channels).bfloat16()
    weight, bias_M = torch.randn(filters, channels, 1, taps).bfloat16(), torch.randn(filters)
    given_BTM = torch.randn(rows, length, filters).bfloat16()
    ours = [hidden_BSC.to(kind).requires_grad_(), weight.float().requires_grad_(), bias_M.clone().requires_grad_()]
    exact = [part.detach().double().requires_grad_() for part in ours]

    got = convolution.convolve(*ours, dilation, rectify=rectify)
    expected = filtered(*exact, dilation)
    size = (channels * taps) ** 0.5
    near(got, expected.relu() if rectify else expected, ROUNDING, 1e-5 * size)

    passed_BTM = (got > 0) if rectify else torch.ones_like(got, dtype=torch.bool)
    wanted = torch.autograd.grad(expected, exact, given_BTM.double() * passed_BTM)
    found = torch.autograd.grad(got, ours, given_BTM)
    near(found[0], wanted[0], ROUNDING, 1e-5 * (filters * taps) ** 0.5)
    for part, whole in zip(found[1:], wanted[1:], strict=True):
        near(part, whole, 1e-5, 1e-4 * (rows * length) ** 0.5)


@pairs
@settings(deadline=None)
@given(shapes, st.booleans(), st.sampled_from([1, 2]))
def test_a_table_of_what_tokens_add_is_the_layer_of_their_embeddings(shape, rectify, threads):
    rows, length, channels, filters, taps, dilation = shape
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    ids_BS = torch.randint(9, (rows, length + (taps - 1) * dilation))
    table_VE = torch.randn(9, channels)
    table_VE[0] = 0
    ours = [table_VE, torch.randn(filters, channels, 1, taps), torch.randn(filters)]
    exact = [part.double().requires_grad_() for part in ours]
    ours = [part.requires_grad_() for part in ours]
    given_BTM = torch.randn(rows, length, filters).bfloat16()

    with half:
        got = convolution.look_up(ours[0], ids_BS, *ours[1:], dilation, rectify=rectify)
    expected = filtered(exact[0][ids_BS], *exact[1:], dilation)
    near(got, expected.relu() if rectify else expected, ROUNDING, 1e-5 * (channels * taps) ** 0.5)

    passed_BTM = (got > 0) if rectify else torch.ones_like(got, dtype=torch.bool)
    wanted = torch.autograd.grad(expected, exact, given_BTM.double() * passed_BTM)
    wanted[0][0] = 0  # the padding, which learns nothing
    for part, whole in zip(torch.autograd.grad(got, ours, given_BTM), wanted, strict=True):
        near(part, whole, 1e-4, 1e-4 * (rows * length * filters) ** 0.5)


@pairs
@pytest.mark.parametrize("looked_up", [True, False])
def test_threads_share_the_sequences_and_change_no_bit_but_of_sums(looked_up):
    torch.manual_seed(0)
    ids_BS, table_VE = torch.randint(9, (5, 40)), torch.randn(9, 16, requires_grad=True)
    weights = torch.randn(24, 16, 1, 5, requires_grad=True), torch.randn(24, requires_grad=True)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        if looked_up:
            out = convolution.look_up(table_VE, ids_BS, *weights, 1, rectify=True)
        else:
            out = convolution.convolve(table_VE[ids_BS], *weights, 1, rectify=True)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), (table_VE, *weights))))
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-2) for a, b in zip(results[0], other, strict=True))


@pairs
@pytest.mark.parametrize("rectify", [True, False])
def test_what_is_no_number_stays_so(rectify):
    hidden_BSC = torch.zeros(2, 9, 4)
    hidden_BSC[1, 5, 2] = torch.nan
    out_BTM = convolution.convolve(hidden_BSC, torch.ones(6, 4, 1, 3), torch.zeros(6), 1, rectify=rectify)
    assert out_BTM[1, 3:6].isnan().all()
    assert out_BTM[0].isfinite().all()
    assert out_BTM[1, [0, 1, 2, 6]].isfinite().all()


SETTINGS = [
    {},
    {"residual": False},
    {"gated": True, "dilation": 2},
    {"embedding": 16, "channels": 16},
    {"kernel": 1, "layers": 2},
]


@pairs
@pytest.mark.parametrize("vocab_size", [40, 600])  # with a table and without
@pytest.mark.parametrize("shape", SETTINGS, ids=str)
def test_a_model_is_no_less_exact_than_torchs_in_bfloat16(shape, vocab_size, monkeypatch):
    torch.manual_seed(0)
    chosen = CNN.Settings(**{"embedding": 12, "channels": 32, "layers": 3, "kernel": 3, "dropout": 0.0, **shape})
    model = CNN(chosen, vocab_size).train()
    ids_BT = torch.randint(4, vocab_size, (6, 50))
    core = [model.embedding.weight, *model.convolutions.parameters()]

    def found():
        features_BTH, _ = model.features(ids_BT, None)
        weights_BTH = torch.linspace(-1, 1, features_BTH.numel()).view_as(features_BTH)
        return [features_BTH, *torch.autograd.grad((features_BTH.float() * weights_BTH).sum(), core)]

    expected = found()
    with half:
        ours = found()
        monkeypatch.setattr(bridge, "suits", lambda _: False)
        theirs = found()
    assert not torch.equal(ours[0], theirs[0]), "the same way twice"
    for part, rival, whole in zip(ours, theirs, expected, strict=True):
        errors = [((found.float() - whole).norm() / whole.norm()).item() for found in (part, rival)]
        assert errors[0] < max(0.01, 1.5 * errors[1])


@pytest.mark.parametrize("which", ["float32", "odd widths", "odd embedding", "another processor"])
def test_everything_else_has_torchs(which, monkeypatch):
    monkeypatch.setattr(arithmetic, "multiplies_pairs", lambda: which != "another processor")
    monkeypatch.setattr(convolution, "convolve", None)
    monkeypatch.setattr(convolution, "look_up", None)
    width = {"odd widths": {"channels": 15}, "odd embedding": {"embedding": 15}}.get(which, {})
    model = CNN(CNN.Settings(**{"channels": 16, "embedding": 8, **width}), 20)
    with torch.autocast("cpu", torch.bfloat16, enabled=which != "float32"):
        nats, _ = model.loss(torch.full((2, 15), 7), torch.full((2, 15), 8), None)
    nats.backward()
    assert all(part.weight.grad.isfinite().all() for part in model.convolutions)


def test_the_compiled_loops_suit_bfloat16(monkeypatch):
    monkeypatch.setattr(arithmetic, "multiplies_pairs", lambda: True)
    ids_BS = torch.zeros(2, 9)
    assert not bridge.suits(ids_BS)
    with half:
        assert bridge.suits(ids_BS)
        assert not bridge.suits(ids_BS[:0])
        monkeypatch.setattr(arithmetic, "multiplies_pairs", lambda: False)
        assert not bridge.suits(ids_BS)


def test_a_table_is_worth_it_for_few_tokens_in_much_text():
    ids_BS = torch.zeros(20, 20)
    assert bridge.few_tokens(ids_BS, 256)
    assert not bridge.few_tokens(ids_BS, 257)
    assert not bridge.few_tokens(ids_BS[:10], 201)


@pytest.mark.parametrize(("count", "whole", "threads"), [(7, 1, 3), (8, 4, 3), (12, 4, 1), (1, 1, 2)])
def test_threads_have_all_of_it_once(count, whole, threads):
    torch.set_num_threads(threads)
    parts = bridge.shares(count, whole)
    assert [n for part in parts for n in range(count)[part]] == list(range(count))
    assert len(parts) == min(threads, count // whole)
    assert all((part.stop - part.start) % whole == 0 for part in parts)
