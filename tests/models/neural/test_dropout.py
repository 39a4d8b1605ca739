"""Masks hang on their key alone, and leave the mean as it was."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lmlab import registry
from lmlab.models.neural.dropout import Dropout, drawn_from, drop

X = torch.ones(200, 300)


def drawn(*key):
    with drawn_from(*key):
        return Dropout(0.3)(X)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_is_dropped_and_the_rest_makes_up_for_it(share):
    with drawn_from(1):
        dropped = Dropout(share)(X)
    assert (dropped == 0).float().mean() == pytest.approx(share, abs=0.01)
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    assert len(dropped.unique()) == 2


@pytest.mark.parametrize(("times", "share"), [(0, 0.0), (0.5, 0.15), (2, 0.6), (5, 0.9)])
def test_so_many_times_its_share_is_dropped(times, share):
    model = torch.nn.Sequential(Dropout(0.3), torch.nn.Identity())
    drop(model, times)
    for key in (None, 1):
        with drawn_from(key) if key else contextlib.nullcontext():
            dropped = model(X)
        assert (dropped == 0).float().mean() == pytest.approx(share, abs=0.01)
        assert dropped.mean() == pytest.approx(1, abs=0.05)


def test_the_key_decides_in_whatever_thread():
    with ThreadPoolExecutor(4) as pool:
        masks = list(pool.map(lambda block: drawn(0, 7, block), range(8)))
    assert all(torch.equal(mask, drawn(0, 7, block)) for block, mask in enumerate(masks))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], drawn(0, 8, 0))


def test_masks_differ_within_a_key_and_leave_torchs_random_state_alone():
    before = torch.get_rng_state()
    with drawn_from(1):
        assert not torch.equal(Dropout(0.3)(X), Dropout(0.3)(X))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_is_dropped_where_the_value_was():
    x = X.clone().requires_grad_()
    with drawn_from(1):
        y = Dropout(0.3)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_nothing_is_dropped_when_not_training_or_of_no_share():
    with drawn_from(1):
        assert torch.equal(Dropout(0.3).eval()(X), X)
        assert torch.equal(Dropout(0.0)(X), X)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_layer_by_layer_is_the_network_with_dropout_between(kind):
    """Without dropout the same to the bit; with it, every layer but the last feeds a masked one."""
    model_class = registry.resolve("model", kind)
    ids_BT = torch.randint(4, 20, (3, 9), generator=torch.Generator().manual_seed(0))
    model = model_class(model_class.Settings(hidden=8, layers=3, dropout=0.0), 20)
    (plain, state), (trained, state_2) = (
        model.eval().loss(ids_BT, ids_BT, None),
        model.train().loss(ids_BT, ids_BT, None),
    )
    assert torch.equal(plain, trained)
    assert all(torch.equal(a, b) for a, b in zip(state.tensors, state_2.tensors, strict=True))
    model.dropout.share = 0.5
    with drawn_from(1):
        _, dropped = model.loss(ids_BT, ids_BT, None)
    first, last = (state.tensors[0] - dropped.tensors[0])[:, [0, 2]].abs().amax((0, 2))
    assert first == 0
    assert last > 0


def test_the_same_falls_in_any_precision_and_the_rest_is_scaled_alike():
    for x in (torch.rand(3, 7), torch.rand(5, 2, 4)):
        kept = {}
        for kind in (torch.float32, torch.bfloat16, torch.float64):
            with drawn_from(5):
                kept[kind] = Dropout(0.5)(x.to(kind))
            assert torch.equal(kept[kind][kept[kind] != 0], 2 * x.to(kind)[kept[kind] != 0])
        assert 0 < (kept[torch.float32] == 0).sum() < x.numel()
        assert all(torch.equal(kept[kind] == 0, kept[torch.float32] == 0) for kind in kept)
