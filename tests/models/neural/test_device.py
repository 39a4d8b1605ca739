"""All that a model makes lies where its weights are: what holds here on a machine without a GPU holds on one with it.

Of itself torch makes tensors on its default device. Within these tests that is another than the weights', so that one
made without saying where meets the others and is an error, as it would be with the weights on a GPU.
"""

import pytest
import torch

from lmlab.kernels import engine
from tests.contracts.zoo import VOCAB, ZOO, build

KINDS = [(name, variant) for name in ("rnn", "lstm", "gru", "cnn", "transformer") for variant in ZOO[name]]
IDS_BT = torch.tensor([[4, 5, 6, 7, 4], [5, 5, 3, 7, 6]])


@pytest.fixture(autouse=True)
def elsewhere():
    """torch alone, as on a GPU, and a default device on which nothing may meet the weights."""
    with engine.only(False), torch.device("meta"):
        yield


def on_cpu(name, variant):
    with torch.device("cpu"):
        return build(name, variant)


def test_the_trap_catches():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.cat([torch.zeros(2, 3), IDS_BT], 1).sum().item()


@pytest.mark.parametrize(("name", "variant"), KINDS)
def test_scoring_and_stepping_stay_where_the_weights_are(name, variant):
    model = on_cpu(name, variant)
    mask_BT = torch.ones_like(IDS_BT, dtype=torch.bool)
    assert model.logp(IDS_BT, mask_BT).isfinite().all()
    assert all(rows_BSV.device.type == "cpu" for rows_BSV in model.rows(IDS_BT))
    logp_BV, state = model.start([[], [4], [5, 6]])
    logp_BV, state = model.step(state.select(IDS_BT[0, :1] - 4), logp_BV[:1].argmax(-1))
    assert logp_BV.shape == (1, VOCAB)
    assert {tensor.device.type for tensor in (logp_BV, *state.tensors)} == {"cpu"}


@pytest.mark.parametrize(("name", "variant"), KINDS)
def test_learning_stays_there_too(name, variant):
    model = on_cpu(name, variant)
    with torch.enable_grad():
        _, state = model.loss(IDS_BT, IDS_BT)
        nats, state = model.loss(IDS_BT, IDS_BT, state.detach(), IDS_BT[:, 0] > 4)
        gradients = torch.autograd.grad(nats, [*model.parameters()], allow_unused=True)
    there = [gradient.device.type for gradient in gradients if gradient is not None]
    assert set(there) == {"cpu"}
    assert {tensor.device.type for tensor in state.tensors} == {"cpu"}
