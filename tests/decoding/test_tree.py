"""The tree of a beam, against the model and against what the steps say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlab.decoding import Beam, BeamSample, Constrained, DiverseBeam, Tree, decode
from lmlab.decoding.tree import WHY
from lmlab.models.toy import Scripted

SIZE, MOST = 7, 4
BEAMS = {
    "beam": Beam(width=3),
    "beam, total": Beam(width=2, length_penalty=0),
    "beam, first": Beam(width=2, early_stopping="first"),
    "drawn": BeamSample(width=3, seed=1),
    "diverse": DiverseBeam(width=4, groups=2),
    "constrained": Constrained(width=3, must=[[4]]),
}


@st.composite
def models(draw):
    rows = st.lists(st.integers(1, 9), min_size=SIZE - 3, max_size=SIZE - 3)
    contexts = [(), *((a,) for a in range(4, SIZE)), *((a, b) for a in range(4, SIZE) for b in range(4, SIZE))]
    table = {}
    for context in contexts:
        weights = draw(rows)
        table[context] = [0, 0, 0, *(weight / sum(weights) for weight in weights)]
    return Scripted.make(table)


def tree_of(model, beam, n=1):
    tree, told = Tree(beam.length_penalty), {}
    for step in decode(model, [], beam, n=n, max_tokens=MOST):
        changed = tree.grow(step)
        told |= {node.id: node for node in changed}
        assert [node.id for node in changed] == sorted(node.id for node in changed)
    assert [told[id] for id in sorted(told)] == tree.nodes[1:], "who hears every step knows the whole tree"
    return tree, step


@given(models(), st.sampled_from(list(BEAMS)))
def test_scores_are_what_the_model_gives_and_every_leaf_says_why_it_ends(model, kind):
    beam = BEAMS[kind]
    tree, last = tree_of(model, beam)
    assert [node.id for node in tree.nodes] == list(range(len(tree.nodes)))
    for node in tree.nodes[1:]:
        assert node.parent < node.id
        tokens = [tree.nodes[id].token for id in tree.path(node.id)[1:]]
        logp_BV, state = model.start([[]])
        total = 0.0
        for token in tokens:
            total += float(logp_BV[0, token])
            logp_BV, state = model.step(state, torch.tensor([token]))
        assert node.total == pytest.approx(total)
        assert node.score == pytest.approx(total / len(tokens) ** beam.length_penalty)
        assert node.total == pytest.approx(tree.nodes[node.parent].total + node.logp)
    parents = {node.parent for node in tree.nodes}
    assert all(node.why in WHY and node.state != "live" for node in tree.nodes if node.id not in parents)
    assert all((node.state == "live") is (node.why == "") for node in tree.nodes)
    best = [[tree.nodes[id].token for id in tree.path(best)[1:]] for best in tree.best]
    assert best == [[each.token for each in branch.path()] for branch in last.best]
    assert all(tree.nodes[id].state == "ended" for id in tree.best)


def test_each_reason_is_told():
    a, b, c = 4, 5, 6
    table = {
        (): [0, 0, 0, 0.1, 0.5, 0.3, 0.1],
        (a,): [0, 0, 0, 0.9, 0.1, 0, 0],
        (b,): [0, 0, 0, 0.7, 0, 0.3, 0],
        (c,): [0, 0, 0, 1, 0, 0, 0],
    }
    tree, _ = tree_of(Scripted.make(table), Beam(width=2, length_penalty=0))
    tokens = [tuple(tree.nodes[at].token for at in tree.path(node.id)[1:]) for node in tree.nodes]
    found = {text: (node.state, node.why) for text, node in zip(tokens, tree.nodes, strict=True)}
    assert found[a, 3] == ("ended", "eos")
    assert found[b, 3] == ("ended", "eos")
    assert found[3,] == ("pruned", "width")
    assert found[a, a] == ("pruned", "ended"), "0.05 cannot overtake 0.45"
    tree, _ = tree_of(Scripted.make({(): [0, 0, 0, 0, 1, 0, 0]}, [0, 0, 0, 0, 1, 0, 0]), Beam(width=1))
    assert [node.why for node in tree.nodes] == ["", "", "", "", "length"]


def test_a_text_whose_continuations_all_fall_out_is_pruned_there():
    even = [0, 0, 0, 0, 0.4, 0.3, 0.3]
    table = {(): [0, 0, 0, 0, 0.6, 0.4, 0], (4,): [0, 0, 0, 0, 0.5, 0.5, 0]}
    tree, _ = tree_of(Scripted.make(table, even), Beam(width=2))
    (dog,) = [node for node in tree.nodes if node.parent == 0 and node.token == 5]
    assert (dog.state, dog.why, dog.total) == ("pruned", "width", pytest.approx(math.log(0.4)))
