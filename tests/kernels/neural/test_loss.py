"""Shapes: N rows, H features, V the vocabulary."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lmlab import kernels
from lmlab.kernels.neural import loss as module
from lmlab.kernels.neural.loss import cross_entropy_sum
from lmlab.vocabulary import IGNORE, NEVER_PREDICTED

N, H, V = 1300, 16, 2048


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def way(request):
    with kernels.only(request.param == "compiled"):
        yield request.param


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
    monkeypatch.setattr(module, "_CHUNK_LOGITS", 1)
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


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_gradient_is_exact_to_the_rounding_of_its_kind(way, kind):
    """Rows from flat to sure, of the target or of another token; a share of V that fills no vector."""
    torch.manual_seed(0)
    logits = (torch.randn(400, 135) * torch.logspace(-2, 2, 400)[:, None]).to(kind)
    bias, targets = torch.randn(135), torch.randint(4, 135, (400,))
    bias[list(NEVER_PREDICTED)] = -torch.inf
    exact = logits.double() + bias.double()
    wanted = torch.softmax(exact, -1) - F.one_hot(targets, 135)
    nats = F.cross_entropy(exact, targets, reduction="sum")
    grad_bias = torch.ones(135)
    got, grad = getattr(module, f"{way}_gradients")(logits.clone(), bias, targets, grad_bias, True)
    close = {"rtol": 2.0**-8 if kind == torch.bfloat16 else 1e-5, "atol": 3e-7}
    torch.testing.assert_close(grad.double(), wanted, **close)
    torch.testing.assert_close(grad_bias.double(), 1 + wanted.sum(0), rtol=1e-5, atol=1e-5)
    assert relative(got, nats) < 1e-6


def test_threads_share_the_rows():
    given, before = operands(1001, 40), torch.get_num_threads()
    loss, gradients = with_gradients(cross_entropy_sum, *given)
    try:
        torch.set_num_threads(3)
        again, the_same = with_gradients(cross_entropy_sum, *given)
    finally:
        torch.set_num_threads(before)
    assert relative(again, loss) < 1e-6
    assert all(relative(one, other) < 1e-5 for one, other in zip(the_same, gradients, strict=True))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_is_not_a_number_is_not_hidden(sign):
    features, weight, bias, targets = operands(20, 40, ignored=0.0)
    weight[17] = sign * torch.nan
    assert cross_entropy_sum(features, weight, bias, targets).isnan()
    weight[17], bias[17] = 0, torch.inf
    assert not cross_entropy_sum(features, weight, bias, targets).isfinite()


def test_backward_works_once():
    """The gradients are scaled where they are."""
    features, *others = operands(20, 40)
    loss = cross_entropy_sum(features.requires_grad_(), *others)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()
