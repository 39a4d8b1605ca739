import pytest
import torch
from torch.nn import functional as F

from lmlab.models.neural.cnn import CNN
from lmlab.models.neural.dropout import drawn_from
from tests.models.neural.acceptance import V, gap, in_pieces, make, text

SHAPES = [
    {"layers": 3, "kernel": 3},
    {"layers": 2, "kernel": 4, "residual": False},
    {"layers": 3, "kernel": 2, "dilation": 2},
    {"layers": 2, "kernel": 3, "dilation": 3, "gated": True},
    {"layers": 2, "kernel": 1},
    {"layers": 1, "kernel": 5, "embedding": 8, "channels": 8},
]


def plainly(model, ids_BT):
    """The features in as few words as torch has for them: (B, C, T) throughout, one-dimensional filters."""
    hidden = F.embedding(F.pad(ids_BT, (model.receptive_field - 1, 0)), model.embedding.weight).transpose(1, 2)
    for layer, convolution in enumerate(model.convolutions):
        gap = model.settings.dilation**layer
        new = F.conv1d(hidden, convolution.weight[:, :, 0], convolution.bias, dilation=gap)
        new = F.glu(new, 1) if model.settings.gated else F.relu(new)
        new = model.dropout(new.transpose(1, 2).contiguous()).transpose(1, 2)
        same = model.settings.residual and new.shape[1] == hidden.shape[1]
        hidden = new + hidden[:, :, -new.shape[2] :] if same else new
    return hidden.transpose(1, 2)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_features_and_gradients_are_those_of_plain_convolutions(shape, training):
    model, ids_BT = make("cnn", dropout=0.3, **shape).train(training), text()
    found = []
    for features in (lambda ids_BT: model.read(ids_BT)[0], lambda ids_BT: plainly(model, ids_BT)):
        with drawn_from(7):
            features_BTH = features(ids_BT)
        weights = torch.linspace(-1, 1, features_BTH.numel()).view_as(features_BTH)
        core = [model.embedding.weight, *model.convolutions.parameters()]
        found.append([features_BTH.detach(), *torch.autograd.grad((features_BTH * weights).sum(), core)])
    found[1][1][0] = 0  # the padding, which learns nothing
    for ours, plain in zip(*found, strict=True):
        assert gap(ours, plain) < 1e-5 * max(1.0, plain.abs().max().item())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_receptive_field_is_exact(shape):
    """The token R back changes nothing; the one R-1 back (the field's first) changes the logits."""
    model = make("cnn", **{"channels": 16, **shape})
    field = model.receptive_field
    ids_1T = text(1, field + 6)
    with torch.no_grad():
        before = model(ids_1T)[0][0, -1]
        for back in range(field + 4):
            moved = ids_1T.clone()
            moved[0, -1 - back] = 4 + (moved[0, -1 - back] - 3) % (V - 4)
            changed = not torch.equal(model(moved)[0][0, -1], before)
            assert changed == (back < field), f"the token {back} back, field {field}"


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_reads_in_pieces(shape):
    model, ids_BT = make("cnn", **shape), text()
    whole, state = in_pieces(model, ids_BT, [17])
    pieces, _ = in_pieces(model, ids_BT, [1, 1, 3, 12])
    assert gap(whole, pieces) < 2e-5
    assert state.tensors[0].shape == (3, model.receptive_field - 1)


def test_the_first_tokens_read_padding_and_no_zeros_between_layers():
    """What stands before the text is padding at the level of tokens: an explicit one changes nothing."""
    model = make("cnn")
    with torch.no_grad():
        for convolution in model.convolutions:
            convolution.bias.fill_(0.7)
    ids_BT = text()
    padded_BT = torch.cat([torch.zeros(3, 20, dtype=torch.int64), ids_BT], 1)
    assert gap(model(padded_BT)[0][:, 20:], model(ids_BT)[0]) < 1e-5


def test_a_residual_is_added_where_widths_agree():
    """With its convolutions silenced, a residual layer passes on what came in."""
    for residual in (True, False):
        model = make("cnn", embedding=8, channels=8, layers=2, residual=residual)
        with torch.no_grad():
            for convolution in model.convolutions:
                convolution.weight.zero_()
                convolution.bias.zero_()
        features_BTH, _ = model.read(text())
        expected = model.embedding(text()) if residual else torch.zeros(3, 17, 8)
        assert torch.equal(features_BTH, expected)


def test_gates_double_the_filters():
    plain, gated = make("cnn", gated=False), make("cnn", gated=True)
    assert [2 * len(c.bias) for c in plain.convolutions] == [len(c.bias) for c in gated.convolutions]


def test_the_default_sees_seventeen_tokens():
    assert CNN(CNN.Settings(), 10).receptive_field == 17
