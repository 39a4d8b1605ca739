import math

import pytest
import torch

from lmlab.errors import SettingError
from lmlab.models.neural.transformer import Transformer
from tests.models.neural.acceptance import V, gap, in_pieces, make, text


@pytest.mark.parametrize(("layers", "window"), [(1, 1), (1, 4), (2, 3), (3, 2)])
def test_it_sees_a_window_a_layer_and_no_further(layers, window):
    model = make("transformer", layers=layers, window=window)
    field = 1 + layers * (window - 1)
    ids_1T = text(1, field + 6)
    with torch.no_grad():
        before = model(ids_1T)[0][0, -1]
        for back in range(field + 4):
            moved = ids_1T.clone()
            moved[0, -1 - back] = 4 + (moved[0, -1 - back] - 3) % (V - 4)
            change = (model(moved)[0][0, -1][4:] - before[4:]).abs().max().item()
            assert (change > 1e-6) == (back < field), f"the token {back} back, field {field}: {change}"


@pytest.mark.parametrize("window", [1, 4, 17, 40])
@pytest.mark.parametrize("sizes", [[1] * 17, [3, 14], [16, 1], [5, 5, 7]])
def test_every_window_reads_in_pieces(window, sizes):
    model = make("transformer", window=window)
    assert gap(in_pieces(model, text(), sizes)[0], in_pieces(model, text(), [17])[0]) < 2e-5


def test_only_distances_count():
    """A text far into a longer one scores as at its start, once the window holds it alone."""
    model = make("transformer", layers=1, window=4)
    late = torch.cat([text(1, 30, seed=2), text(1, 10)], 1)
    assert gap(model(late)[0][:, -7:], model(text(1, 10))[0][:, -7:]) < 2e-5


def test_the_order_of_what_is_seen_matters():
    model = make("transformer")
    assert gap(model(torch.tensor([[5, 6, 7]]))[0][:, -1], model(torch.tensor([[6, 5, 7]]))[0][:, -1]) > 1e-3


def test_heads_must_divide_the_width_into_pairs():
    with pytest.raises(SettingError, match=r"width is 10, but must be a multiple of twice the heads \(4\)"):
        Transformer.Settings(width=10, heads=2)


def test_a_long_text_is_read_in_segments_of_the_window():
    """Attention takes memory by the square of what is read at once; reading more at once changes no score."""
    torch.manual_seed(0)
    model = Transformer(Transformer.Settings(width=8, layers=2, heads=2, window=6), 9).eval()
    ids_BT = torch.randint(4, 9, (2, 41))
    seen = []
    features = model.features
    model.features = lambda ids, state: seen.append(ids.shape[1]) or features(ids, state)
    in_segments = model.logp(ids_BT, torch.ones_like(ids_BT, dtype=torch.bool))
    started = model.start(ids_BT.tolist())[0]
    assert max(seen) == 6
    model.segment = 100
    assert torch.allclose(model.logp(ids_BT, torch.ones_like(ids_BT, dtype=torch.bool)), in_segments, atol=1e-5)
    assert torch.allclose(model.start(ids_BT.tolist())[0], started, atol=1e-5)


def test_a_fresh_model_predicts_nearly_evenly_and_adds_little_in_each_block():
    """Weights that start a hundred times too large, in a block or at the output, cost nats from the first step on."""
    torch.manual_seed(0)
    model = Transformer(Transformer.Settings(width=64, layers=3, heads=2), 200)
    ids_BT = torch.randint(4, 200, (4, 100))
    with torch.no_grad():
        nats = model.loss(ids_BT, ids_BT)[0].item() / ids_BT.numel()
    assert nats == pytest.approx(math.log(198), abs=0.35)
    for block in model.blocks:
        for last in (block.attended, block.narrow):
            assert last.weight.std().item() == pytest.approx(0.02 / 3**0.5, rel=0.1)
    assert model.output.weight.std().item() == pytest.approx((3 * 64) ** -0.5, rel=0.1)
