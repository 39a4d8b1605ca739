"""Shapes: B texts, T positions, V the vocabulary, N ids, P all weights laid end to end."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lmlab.errors import UsageError
from lmlab.models.adaptive.dynamic import _FLOOR, Dynamic, gradient_rms
from lmlab.vocabulary import BOS, EOS
from tests.models.neural.acceptance import make

V = 12
RNG = np.random.default_rng(0)
DOCUMENTS = [np.array([BOS, *RNG.integers(4, V, length), EOS]) for length in (11, 0, 7, 3)]
REPETITIVE = np.array([BOS, *[4, 5, 6, 7, 8] * 40, EOS])


def scores(model, documents):
    return np.concatenate(list(model.logp_stream(documents)))


def unadapted(model, documents):
    ids = [torch.from_numpy(ids_N[None, 1:]) for ids_N in documents]
    return np.concatenate([model.logp(ids_1T, torch.ones_like(ids_1T, dtype=torch.bool))[0].numpy() for ids_1T in ids])


def dynamic(model, **settings):
    settings = Dynamic.Settings(**settings)
    return Dynamic(model, settings, gradient_rms(model, DOCUMENTS, settings.segment))


@pytest.mark.parametrize("kind", ["cnn", "gru", "lstm", "transformer"])
def test_with_a_rate_of_zero_it_is_the_model(kind):
    model = make(kind)
    same = Dynamic(model, Dynamic.Settings(lr=0, segment=4))
    assert scores(same, DOCUMENTS) == pytest.approx(unadapted(model, DOCUMENTS), abs=1e-5)
    assert torch.allclose(same.start([[5, 6], []])[0], model.start([[5, 6], []])[0], atol=1e-5)


@pytest.mark.parametrize("softmax", ["full", "adaptive"])
@pytest.mark.parametrize("rule", ["rms", "sgd"])
def test_it_agrees_with_the_formula_written_out(rule, softmax):
    """A module of its own, stepped weight by weight as in the paper."""
    model, segment, lr, decay = make("lstm", softmax=softmax), 4, 0.05, 0.3
    adapted = dynamic(model, rule=rule, lr=lr, decay=decay, segment=segment)
    sizes = [weight.numel() for weight in model.parameters()]
    rms = gradient_rms(model, DOCUMENTS, segment)
    if rule == "sgd":
        rms = torch.ones_like(rms)
    mean = rms.mean()
    stepped, expected = copy.deepcopy(model), []
    for ids_N in DOCUMENTS:
        ids, state = torch.from_numpy(ids_N), None
        for at in range(0, len(ids) - 1, segment):
            targets = ids[at + 1 : at + segment + 1]
            logits, state = stepped(ids[None, at : at + len(targets)], state)
            state = state.detach()
            nats = F.cross_entropy(logits[0], targets, reduction="none")
            expected += (-nats).tolist()
            stepped.zero_grad()
            (nats.sum() / segment).backward()
            share = len(targets) / segment
            with torch.no_grad():
                for weight, trained, rms_P in zip(
                    stepped.parameters(), model.parameters(), rms.split(sizes), strict=True
                ):
                    usual = rms_P.view(weight.shape)
                    back = share * (decay * usual / mean).clamp(max=1) * (trained - weight)
                    epsilon = 0 if rule == "sgd" else _FLOOR * mean
                    weight += back - lr * weight.grad / (usual + epsilon)
    assert scores(adapted, DOCUMENTS) == pytest.approx(np.array(expected), abs=1e-4)
    assert np.abs(np.array(expected) - unadapted(model, DOCUMENTS)).max() > 0.01


def test_the_rms_is_that_of_the_gradients():
    model = make("gru")
    squares = []
    for ids_N in DOCUMENTS:
        model.zero_grad()
        ids = torch.from_numpy(ids_N)[None]
        loss, _ = model.loss(ids[:, :-1], ids[:, 1:], None)
        (loss / 20).backward()
        squares.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]) ** 2)
    progress = []
    rms_P = gradient_rms(model, DOCUMENTS, 20, progress.append)
    assert torch.allclose(rms_P, torch.stack(squares).mean(0).sqrt(), atol=1e-6)
    assert progress[-1] == sum(len(ids_N) - 1 for ids_N in DOCUMENTS)


def test_what_is_learned_is_carried_on_and_the_context_is_not():
    adapted = dynamic(make("lstm"), lr=0.02, segment=4)
    twice = scores(adapted, [REPETITIVE, REPETITIVE])
    first, second = twice[: len(twice) // 2], twice[len(twice) // 2 :]
    assert scores(adapted, [REPETITIVE]) == pytest.approx(first)
    assert second.sum() > first.sum() + 1
    still = Dynamic(make("lstm"), Dynamic.Settings(lr=0))
    first, second = np.split(scores(still, [REPETITIVE, REPETITIVE]), 2)
    assert second == pytest.approx(first)


@pytest.mark.parametrize("rule", ["rms", "sgd"])
@pytest.mark.parametrize("kind", ["cnn", "rnn", "lstm", "transformer"])
def test_it_learns_a_repetitive_text(kind, rule):
    model = make(kind)
    lr = {"rms": 0.01, "sgd": 0.2}[rule]
    learned = scores(dynamic(model, rule=rule, lr=lr, segment=8), [REPETITIVE])
    assert learned.mean() > unadapted(model, [REPETITIVE]).mean() + 0.5


def test_the_trained_model_stays_as_it_is():
    model = make("lstm")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    scores(dynamic(model, lr=0.1, segment=2), DOCUMENTS)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_rows_share_weights_until_they_learn_otherwise():
    adapted = dynamic(make("lstm"), lr=0.05, segment=3)
    _, state = adapted.start([[4, 5, 6, 7]])
    state = state.select(torch.tensor([0, 0, 0]))
    for tokens in ([8, 8, 9], [5, 5, 5], [6, 6, 6]):  # the second step learns 6, 7, 8, 5 and 6, 7, 9, 5
        logp_BV, state = adapted.step(state, torch.tensor(tokens))
        assert len({id(row.weights_P) for row in state.rows}) == (1 if tokens[0] == 8 else 2)
    same, twin, other = state.rows
    assert twin is same
    assert other.weights_P is not same.weights_P
    alone_BV = adapted.start([[4, 5, 6, 7, 8, 5, 6], [4, 5, 6, 7, 9, 5, 6]])[0]
    assert torch.allclose(logp_BV, alone_BV[[0, 0, 1]], atol=1e-4)


def test_a_step_is_clipped():
    adapted = dynamic(make("lstm"), rule="sgd", lr=1.0, decay=0.0, segment=5, clip=0.01)
    begun = adapted.fresh()
    *_, (_, after) = adapted.read(DOCUMENTS[0][:6].tolist(), begun)
    assert (after.weights_P - begun.weights_P).norm() == pytest.approx(0.01, rel=1e-3)


def test_it_works_where_nothing_may_be_learned():
    adapted = dynamic(make("lstm"), lr=0.05, segment=2)
    expected = adapted.start([[4, 5, 6, 7, 8]])[0]
    with torch.inference_mode():
        state = adapted.start([[4, 5, 6, 7]])[1]
        assert torch.allclose(adapted.step(state, torch.tensor([8]))[0], expected, atol=1e-5)


def test_without_rms_only_plain_steps():
    with pytest.raises(UsageError, match="rule=sgd"):
        Dynamic(make("lstm"), Dynamic.Settings())
    with pytest.raises(UsageError, match="no prompts"):
        Dynamic(make("lstm"), Dynamic.Settings(lr=0)).start([])
