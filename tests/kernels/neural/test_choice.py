"""Which twin runs, and what each thread has of the work."""

import pytest
import torch

from lmlab import kernels, registry
from lmlab.kernels.neural import choice, matmul
from tests.models.neural.acceptance import documents

autocast = torch.autocast("cpu", torch.bfloat16)
SETTINGS = {
    "rnn": {"hidden": 16, "embedding": 4},
    "lstm": {"hidden": 16, "embedding": 4},
    "gru": {"hidden": 16, "embedding": 4},
    "transformer": {"width": 8, "heads": 2, "layers": 1, "window": 4},
}


def test_layers_are_compiled_in_bfloat16_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(matmul, "has_bfloat16", lambda: True)
    ids_BT = torch.zeros(2, 9, dtype=torch.int64)
    assert not choice.compiled_in_bfloat16(ids_BT)
    with kernels.only(True):
        assert not choice.compiled_in_bfloat16(ids_BT), "precision is not for `only` to change"
    with autocast:
        assert choice.compiled_in_bfloat16(ids_BT)
        assert not choice.compiled_in_bfloat16(ids_BT[:0])
        with kernels.only(False):
            assert not choice.compiled_in_bfloat16(ids_BT)
        monkeypatch.setattr(matmul, "has_bfloat16", lambda: False)
        assert not choice.compiled_in_bfloat16(ids_BT)


def test_a_loss_of_many_logits_is_compiled():
    features_NH = torch.zeros(3, 4)
    assert choice.compiled_loss(features_NH, 1 << 16)
    assert not choice.compiled_loss(features_NH, (1 << 16) - 1)
    assert not choice.compiled_loss(features_NH.double(), 1 << 16)
    with kernels.only(True):
        assert choice.compiled_loss(features_NH.bfloat16(), 1)


def test_a_table_is_worth_it_for_few_tokens_in_much_text():
    ids_BT = torch.zeros(20, 20)
    assert choice.worth_a_table(ids_BT, 256)
    assert not choice.worth_a_table(ids_BT, 257)
    assert not choice.worth_a_table(ids_BT[:10], 201)


@pytest.mark.parametrize("way", ["another processor", "plain", "float32"])
@pytest.mark.parametrize("kind", SETTINGS)
def test_everything_else_runs_the_plain_twins(kind, way, monkeypatch):
    for module in ("attention", "recurrent"):
        for name in ("_Attention", "_Layer"):
            monkeypatch.setattr(f"lmlab.kernels.neural.{module}.{name}", None, raising=False)
    monkeypatch.setattr(matmul, "has_bfloat16", lambda: way != "another processor")
    architecture = registry.resolve("model", kind)
    model = architecture(architecture.Settings(**SETTINGS[kind]), 12)
    with torch.autocast("cpu", torch.bfloat16, enabled=way != "float32"), kernels.only(way != "plain"):
        nats, _ = model.loss(*documents([[5, 6, 7], [8]]))
    nats.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("count", "multiple", "threads"), [(7, 1, 3), (8, 4, 3), (12, 4, 1), (1, 1, 2)])
def test_threads_have_all_of_it_once(count, multiple, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        blocks = choice.row_blocks(count, multiple)
    finally:
        torch.set_num_threads(before)
    assert [n for block in blocks for n in range(count)[block]] == list(range(count))
    assert len(blocks) == min(threads, count // multiple)
    assert all((block.stop - block.start) % multiple == 0 for block in blocks)
