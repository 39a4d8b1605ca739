"""Counts of the text being read: worked by hand, alike in a stream and step by step, blind to what comes later."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmlab.errors import SettingError
from lmlab.models.adaptive import recount
from lmlab.models.adaptive.recount import Recount
from lmlab.models.toy import Uniform
from lmlab.vocabulary import BOS, EOS

A, B, C = 4, 5, 6
VOCAB = 7
UNIFORM = 1 / 5  # of A, B, C, [UNK] and <eos>


def around_uniform(**settings):
    return Recount(Uniform(VOCAB), Recount.Settings(**settings))


def by_steps(model, ids):
    logp_BV, state = model.start([[]])
    scores = []
    for id in ids[1:]:
        scores.append(float(logp_BV[0, id]))
        logp_BV, state = model.step(state, torch.tensor([id]))
    return np.array(scores)


def streamed(model, documents):
    documents = [np.array(ids) for ids in documents]
    tokens = sum(len(ids) - 1 for ids in documents)
    inner = np.full(tokens, np.log(UNIFORM))
    pieces = [piece[None] for piece in np.split(inner, [3, 4]) if len(piece)]  # of any length
    return np.concatenate(list(model.blend(iter(documents), iter(pieces))))


def test_by_hand():
    model = around_uniform(shortest=1, longest=1, discount=0.5, strength=1, weight=1)
    logp_BV, _ = model.start([[A, B, A, B, A, C, A]])
    shared = (1 + 0.5 * 2) * UNIFORM  # A was followed by two types: B twice, C once
    expected = {A: shared, B: 1.5 + shared, C: 0.5 + shared, EOS: shared}
    for id, share in expected.items():
        assert logp_BV[0, id].exp().item() == pytest.approx(share / 4)
    assert logp_BV[0].exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("span", [1 << 22, 7, 5])
@pytest.mark.parametrize("settings", [{"shortest": 0, "longest": 3}, {"shortest": 2, "longest": 2, "strength": 0}])
def test_a_stream_is_scored_as_step_by_step(span, settings, monkeypatch):
    monkeypatch.setattr(recount, "SPAN", span)
    model = around_uniform(**settings)
    ids = [BOS, *np.random.default_rng(0).integers(A, VOCAB, 40).tolist(), EOS]
    assert streamed(model, [ids]) == pytest.approx(by_steps(model, ids), abs=1e-6)


def test_counts_go_on_from_document_to_document_but_contexts_do_not():
    model = around_uniform(shortest=1, longest=1, discount=0.5, strength=1, weight=1)
    alone = streamed(model, [[BOS, A, B, EOS]])
    after = streamed(model, [[BOS, A, B, EOS], [BOS, A, B, EOS]])
    assert after[:3] == pytest.approx(alone)
    assert (after[3:] > alone).all()  # <bos> A, A B and B <eos> were all seen
    assert streamed(model, [[BOS, C, EOS], [BOS, A, EOS]])[2] < np.log(UNIFORM)  # after <bos> came C, never A


def test_what_comes_later_changes_nothing_before():
    model = around_uniform(shortest=1, longest=4)
    ids = np.array([BOS, *np.random.default_rng(1).integers(A, VOCAB, 30), EOS])
    other = ids.copy()
    other[20] = A + (other[20] - A + 1) % 3
    same, changed = streamed(model, [ids]), streamed(model, [other])
    assert (same[:19] == changed[:19]).all()
    assert (same[19:] != changed[19:]).any()


def test_a_longest_context_below_the_shortest_is_refused():
    with pytest.raises(SettingError, match="longest"):
        Recount.Settings(shortest=3, longest=2)
