import itertools
import json

import numpy as np
import pytest
import torch

import notebook_loops as loops
import notebooks
from lmlab import scoring
from lmlab.corpora.document import Document
from lmlab.testing import check_laws
from lmlab.tokens import build_tokenizer
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, EOS, UNK

TEXTS = ("abba", "cab", "", "bacca abba " * 9)
V = 9


@pytest.fixture(scope="module")
def store() -> TokenStore:
    documents = [Document(text) for text in TEXTS]
    return TokenStore.from_documents(build_tokenizer("char", {}, documents), documents)


def networks():
    torch.manual_seed(0)
    found = {
        "conv": loops.ConvNet(V, 6, 8, 3, 3, residual=True),
        "lstm": loops.RecurrentNet(V, 6, 8),
        "one-hot": loops.RecurrentNet(V, None, 8),
    }
    for network in found.values():
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(2)
    return found


def counted(**how):
    rng = np.random.default_rng(0)
    documents = [np.array([BOS, *rng.choice([UNK, 4, 5, 6], 6), EOS]) for _ in range(20)]
    return loops.CountedNotebook(loops.Counts(documents, order=3), V, **how)


MEMBERS = {**networks(), "lidstone": counted(), "mixture": counted(weight=0.7)}


def member(name: str) -> loops.FromScratch:
    made = MEMBERS[name]
    return loops.Trained(made) if isinstance(made, loops.Network) else made


@pytest.mark.parametrize("name", MEMBERS)
def test_a_notebook_model_at_the_waist_obeys_every_law(name):
    check_laws(member(name))


@pytest.mark.parametrize("name", MEMBERS)
def test_the_ruler_gives_what_a_plain_loop_over_documents_gives(name, store, monkeypatch):
    monkeypatch.setattr(loops, "_HEAD_ROWS", 7)
    model = member(name)
    assert store.vocab_size <= V
    nats = 0.0
    for i in range(len(store)):
        ids = store.document(i).tolist()
        for at in range(1, len(ids)):
            nats -= float(model.next_logp(ids[:at])[ids[at]])
    assert scoring.evaluate(model, store).total_nats == pytest.approx(nats, rel=1e-5)


def test_counts_are_those_worked_by_hand():
    documents = [np.array([BOS, 4, 5, EOS]), np.array([BOS, 4, 4, EOS])]
    counts = loops.Counts(documents, order=2)
    mixed = loops.CountedNotebook(counts, V, k=0.0, weight=0.6)
    assert mixed.prob((BOS,), 4) == pytest.approx(0.6 * 1 + 0.4 * 3 / 6)
    assert mixed.prob((4,), 5) == pytest.approx(0.6 * 1 / 3 + 0.4 * 1 / 6)
    assert mixed.prob((8,), 4) == pytest.approx(3 / 6)
    lidstone = loops.CountedNotebook(counts, V, k=0.5)
    assert lidstone.prob((4,), EOS) == pytest.approx(1.5 / (3 + 0.5 * 7))


LOOPS = {
    "lines": lambda network, ids: loops.train_lines(network, np.split(ids, np.flatnonzero(ids == BOS)[1:]), 1, 30),
    "every position": lambda network, ids: loops.train_windows(network, ids[:40], 1, every_position=True),
    "last position": lambda network, ids: loops.train_windows(network, ids[:40], 1, every_position=False),
    "columns": lambda network, ids: loops.train_columns(network, ids, 1),
}


@pytest.mark.parametrize(
    ("loop", "context"), [("lines", 2), ("every position", 32), ("last position", 38), ("columns", 8)]
)
def test_a_loop_learns_what_always_follows(loop, context, monkeypatch):
    monkeypatch.setattr(loops.time, "perf_counter", itertools.count(step=0.4).__next__)  # a minute is some 150 steps
    ids = np.tile(np.array([BOS, 4, 5, 6, 7, EOS], dtype=np.uint16), 40)
    torch.manual_seed(0)
    network = loops.RecurrentNet(V, None, 64)
    before = float(loops.Trained(network).next_logp(ids[:context].tolist())[5])
    run = LOOPS[loop](network, ids)
    after = loops.Trained(network).next_logp(ids[:context].tolist())
    assert int(after.argmax()) == 5
    assert float(after[5]) > before + 0.5
    assert 100 < run.steps < run.tokens


def test_generation_never_ends_early_and_repeats():
    model = member("lstm")
    first = loops.generate(model, 30, seed=3)
    assert len(first) == 30
    assert EOS not in first
    assert first == loops.generate(model, 30, seed=3)
    assert first != loops.generate(model, 30, seed=4)


@pytest.mark.slow  # two processes that each import torch, train and generate
def test_the_whole_table_of_one_experiment(tmp_path, monkeypatch, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the {word} of {word}s" for word in ("cat", "dog", "king", "queen")) * 300)
    name = "shakespeare-words-lstm"
    small = notebooks.Experiment(name, str(text), notebooks.EXPERIMENTS[name].learn)
    monkeypatch.setitem(notebooks.EXPERIMENTS, name, small)
    monkeypatch.setattr(notebooks, "in_own_process", notebooks.one_side)
    notebooks.main(["--minutes", "0.03", "--only", name, "--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    assert f"| {name} |" in printed
    sides = json.loads((tmp_path / "figures.json").read_text())["experiments"][name]
    assert sides["notebook"]["held_out"] == sides["lmlab"]["held_out"] > 100
    assert all(0 < side["nats"] < 3 for side in sides.values())
    notebooks.main(["--minutes", "0.03", "--only", name, "--sooner", "1", "2"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {name}")]
    assert [row[1].partition(",")[0] for row in rows] == ["notebook", "lmlab", "lmlab"]
    assert all(float(row[2]) > 0 and 0 < float(row[4]) < 3 for row in rows)
