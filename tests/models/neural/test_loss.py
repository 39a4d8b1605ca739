"""Shapes: N rows, H features, V the vocabulary."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lmlab.models.neural import loss as module
from lmlab.models.neural.loss import cross_entropy_sum
from lmlab.vocab import IGNORE, NEVER_PREDICTED

N, H, V = 1300, 16, 2048


def operands(rows=N, vocab=V, ignored=0.2, seed=0, scale=1.0):
    """features_NH, weight_VH, bias_V (-inf where never predicted), targets_N."""
    g = torch.Generator().manual_seed(seed)
    features = scale * torch.randn(rows, H, generator=g)
    weight, bias = torch.randn(vocab, H, generator=g), torch.randn(vocab, generator=g)
    bias[list(NEVER_PREDICTED)] = -torch.inf
    targets = torch.randint(4, vocab, (rows,), generator=g)
    targets[torch.rand(rows, generator=g) < ignored] = IGNORE
    return features, weight, bias, targets


def plain(features, weight, bias, targets):
    logits = F.linear(features.double(), weight.double(), bias.double())
    return F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORE)


def with_gradients(function, features, weight, bias, targets, factor=0.37):
    leaves = [tensor.clone().requires_grad_() for tensor in (features, weight, bias)]
    loss = function(*leaves, targets)
    (factor * loss).backward()
    return loss.detach(), [leaf.grad for leaf in leaves]


def relative(got, expected):
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("vocab", [8, 1023, 1024, V])
@pytest.mark.parametrize("rows", [1, 511, 512, N])
def test_the_loss_and_its_gradients_are_the_plain_ones(rows, vocab):
    given = operands(rows, vocab, ignored=0.2 if rows > 1 else 0.0)
    loss, gradients = with_gradients(cross_entropy_sum, *given)
    expected, wanted = with_gradients(plain, *given)
    assert loss.dtype == torch.float32
    assert relative(loss, expected) < 2e-6
    for gradient, want in zip(gradients, wanted, strict=True):
        assert gradient.isfinite().all()
        assert relative(gradient, want) < 1e-5


@pytest.mark.parametrize("vocab", [8, V])
def test_large_logits_overflow_nothing(vocab):
    given = operands(64, vocab, scale=300.0)
    loss, gradients = with_gradients(cross_entropy_sum, *given)
    assert relative(loss, with_gradients(plain, *given)[0]) < 1e-5
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("vocab", [8, V])
def test_an_ignored_row_counts_nothing_and_learns_nothing(vocab):
    features, weight, bias, targets = operands(40, vocab)
    kept = targets != IGNORE
    loss, gradients = with_gradients(cross_entropy_sum, features, weight, bias, targets)
    alone, gradients_alone = with_gradients(cross_entropy_sum, features[kept], weight, bias, targets[kept])
    assert relative(loss, alone) < 1e-6
    assert (gradients[0][~kept] == 0).all()
    assert relative(gradients[1], gradients_alone[1]) < 1e-6


@pytest.mark.parametrize("vocab", [8, V])
def test_all_rows_ignored_is_zero_with_zero_gradients(vocab):
    loss, gradients = with_gradients(cross_entropy_sum, *operands(700, vocab, ignored=1.0))
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("vocab", [8, V])
def test_what_is_never_predicted_has_no_gradient(vocab):
    _, gradients = with_gradients(cross_entropy_sum, *operands(100, vocab))
    assert (gradients[1][list(NEVER_PREDICTED)] == 0).all()
    assert (gradients[2][list(NEVER_PREDICTED)] == 0).all()


@pytest.mark.parametrize("vocab", [8, V])
def test_under_autocast_it_is_close(vocab):
    given = operands(600, vocab, scale=0.3)

    def under_autocast(*tensors):
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy_sum(*tensors)

    loss, gradients = with_gradients(under_autocast, *given)
    expected, wanted = with_gradients(plain, *given)
    assert loss.dtype == torch.float32
    assert relative(loss, expected) < 2e-3
    for gradient, want in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert relative(gradient, want) < 2e-2


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes, and how many matrices it multiplies."""

    def __init__(self):
        super().__init__()
        self.numbers = self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        self.products += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return made


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_logits_of_a_large_vocabulary_never_exist_all_at_once(monkeypatch, precision):
    monkeypatch.setattr(module, "_CHUNK_ROWS", 32)
    rows, vocab = 1024, 4096
    features, weight, bias, targets = operands(rows, vocab, ignored=0.0)
    leaves = [tensor.requires_grad_() for tensor in (features, weight, bias)]
    with Largest() as seen, torch.autocast("cpu", precision, enabled=precision is not None):
        cross_entropy_sum(*leaves, targets).backward()
    assert seen.numbers <= max(32 * vocab, vocab * H, rows * H) < rows * vocab / 20


def test_the_loss_alone_computes_no_gradients():
    given = operands(200)
    with Largest() as learning:
        with_gradients(cross_entropy_sum, *given)
    leaves = [tensor.clone().requires_grad_() for tensor in given[:3]]
    with Largest() as scoring, torch.no_grad():
        loss = cross_entropy_sum(*leaves, given[3])
    assert relative(loss, plain(*given)) < 2e-6
    assert (learning.products, scoring.products) == (3, 1)
