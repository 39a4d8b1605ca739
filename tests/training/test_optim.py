import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lmlab.training import TrainSettings
from lmlab.training.optim import learning_rate, make_optimizer


@given(st.floats(0, 0.9), st.floats(0, 1), st.sampled_from(["cosine", "constant"]))
def test_the_rate_rises_to_its_peak_and_falls_to_its_floor(warmup, floor, schedule):
    settings = TrainSettings(lr=0.5, warmup=warmup, floor=floor, schedule=schedule)
    rates = [learning_rate(settings, share / 200) for share in range(201)]
    assert max(rates) <= 0.5 * (1 + 1e-9)
    assert min(rates) >= 0
    assert learning_rate(settings, max(warmup, 1e-12)) == pytest.approx(0.5, rel=1e-6)
    assert rates[-1] == pytest.approx(0.5 if schedule == "constant" else 0.5 * floor)
    risen = [rate for share, rate in enumerate(rates) if share / 200 <= warmup]
    fallen = [rate for share, rate in enumerate(rates) if share / 200 > warmup]
    assert risen == sorted(risen)
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(fallen))


def test_only_matrices_decay():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.bias.fill_(1.0)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(model, TrainSettings(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.1)
    assert torch.allclose(model.weight, before * (1 - 0.1 * 0.5))
    assert (model.bias == 1).all()


def test_sgd_is_plain():
    model = nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = make_optimizer(model, TrainSettings(lr=0.1, optimizer="sgd", weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.1)
    for parameter, was in zip(model.parameters(), before, strict=True):
        assert torch.allclose(parameter, was - 0.1)


def stepped(model, optimizer, moments, seed=0):
    """Some steps on made-up gradients; the last matrix has none in the second of them."""
    generator = torch.Generator().manual_seed(seed)
    for nth in range(moments):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if nth == 1:
            model[-1].weight.grad = None
        optimizer(nth)
    return [parameter.detach().clone() for parameter in model.parameters()]


def two_layers():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))


def test_adamw_is_torchs_own_bit_for_bit():
    settings, ours, theirs = TrainSettings(lr=0.1, weight_decay=0.3, beta2=0.95), two_layers(), two_layers()
    mine = make_optimizer(ours, settings)
    matrices, others = ([p for p in theirs.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)

    def torchs(nth):
        for group in reference.param_groups:
            group["lr"] = 0.1 / (1 + nth)
        reference.step()

    pairs = zip(stepped(ours, lambda nth: mine.step(0.1 / (1 + nth)), 8), stepped(theirs, torchs, 8), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_memory_put_back_goes_on_alike(kind):
    settings, model, again = TrainSettings(lr=0.1, optimizer=kind), two_layers(), two_layers()
    first = make_optimizer(model, settings)
    stepped(model, lambda _: first.step(0.1), 3)
    again.load_state_dict(model.state_dict())
    second = make_optimizer(again, settings)
    assert second.memory.keys() == first.memory.keys()
    assert bool(first.memory) == (kind == "adamw")
    for name, tensor in first.memory.items():
        second.memory[name].copy_(tensor)
    ends = [stepped(m, lambda _, o=o: o.step(0.1), 3, seed=5) for m, o in ((model, first), (again, second))]
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
