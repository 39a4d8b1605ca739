"""What is seen inside networks equals what torch and our models compute; where it is not there, one line says so."""

import json

import numpy as np
import pytest
import torch

import lmlab
from lmlab.cli import main
from lmlab.errors import SettingError, UsageError
from lmlab.models.neural.base import TensorState
from lmlab.models.neural.rnn import GRU, LSTM, RNN, RecurrentSettings
from lmlab.seeing import INSPECTIONS
from lmlab.seeing.attention import attention_of
from lmlab.seeing.cells import cells_of, correlations
from lmlab.seeing.features import FEATURES, feature_of
from lmlab.seeing.gates import gates_of
from lmlab.seeing.neighbours import cosines_of, embedding_of, principal_axes
from lmlab.seeing.recurrence import STEPS, steps
from lmlab.seeing.through_time import batch_norms, fresh, gradients_of, singular_values
from lmlab.vocabulary import BOS
from tests import huggingface

CELLS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
TEXT = 'def f(x):\n    return "a (<b" + [x]\n\ndef g(y):\n    return {"c": y}\n' * 40


def network(kind, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CELLS[kind](RecurrentSettings(hidden=16, embedding=8, **settings), 20).eval()
        for parameter in model.recurrent.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
    return model


def ids(rows=2, length=30):
    return torch.cat([torch.full((rows, 1), BOS), torch.randint(4, 20, (rows, length), generator=torch.Generator())], 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {"ngram": lmlab.train(text=TEXT, tokenizer="char", model="ngram", order=3)}
    for kind in CELLS:
        made[kind] = lmlab.train(text=TEXT, tokenizer="char", model={"kind": kind, "hidden": 16}, steps=2)
    small = {"kind": "transformer", "width": 16, "heads": 2, "layers": 2, "window": 8}
    made["transformer"] = lmlab.train(text=TEXT, tokenizer="char", model=small, steps=2)
    made["one-hot"] = lmlab.train(text=TEXT, tokenizer="char", model={"kind": "rnn", "input": "one-hot"}, steps=0)
    for name, lm in made.items():
        lm.save(tmp_path_factory.mktemp("runs") / name)
    return made


# -- the equations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CELLS)
def test_a_step_is_that_of_torchs_cell(kind):
    cell = {"rnn": torch.nn.RNNCell, "lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[kind](5, 7)
    x, h, c = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    found = STEPS[kind](x, {"hidden": h, "cell": c}, [*cell.parameters()])
    wanted = cell(x, (h, c)) if kind == "lstm" else (cell(x, h),)
    for name, value in zip(("hidden", "cell"), wanted, strict=False):
        assert torch.allclose(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"layers": 3}, {"input": "one-hot"}, {"input": "tied"}], ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_all_steps_are_those_of_our_models_read_at_once_and_one_by_one(kind, settings):
    model, read_BT = network(kind, **settings), ids()
    found = list(steps(model, read_BT))
    with torch.no_grad():
        features_BTH, state = model.read(read_BT)
        mine_BTH = model.narrow(torch.stack([layers[-1]["hidden"] for layers in found], 1))
        assert torch.allclose(mine_BTH, features_BTH, rtol=0, atol=1e-6)
        one_by_one = model.initial_state(2, read_BT.device)
        for at, ids_B in enumerate(read_BT.T):
            _, one_by_one = model.step(one_by_one, ids_B)
            names = ("hidden", "cell") if kind == "lstm" else ("hidden",)
            mine = TensorState(tuple(torch.stack([layer[name] for layer in found[at]], 1) for name in names))
            for ours, theirs in zip(mine.tensors, one_by_one.tensors, strict=True):
                assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    assert torch.allclose(mine.tensors[0], state.tensors[0], rtol=0, atol=1e-6)


def test_what_gates_give_obeys_the_equations_of_the_cell():
    read = ids(1)[0].tolist()
    of = gates_of(network("lstm"), read).values
    assert np.allclose(of["hidden"], of["output"] * np.tanh(of["cell"]), atol=1e-6)
    assert np.allclose(
        of["cell"][1:], of["forget"][1:] * of["cell"][:-1] + (of["input"] * of["candidate"])[1:], atol=1e-6
    )
    assert [*gates_of(network("gru"), read).values] == ["reset", "update", "candidate", "hidden"]
    assert [*gates_of(network("rnn"), read).values] == ["hidden"]
    assert np.allclose(cells_of(network("lstm"), read), np.tanh(of["cell"]), atol=1e-6)


def test_saturation_is_a_share():
    found = gates_of(network("gru"), ids(1)[0].tolist())
    low, high = found.saturation("update")
    assert low == np.mean(found.values["update"] < 0.1)
    assert high == np.mean(found.values["update"] > 0.9)
    assert found.saturation("candidate")[0] == np.mean(found.values["candidate"] < -0.9)


# -- cells -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("quotes", 'a"bc"d', [0, 1, 1, 1, 0, 0]),
        ("quotes", "a\u201cb\u201dc", [0, 1, 1, 0, 0]),
        ("brackets", "([x])])(", [1, 2, 2, 1, 0, 0, 0, 1]),
        ("line", "ab\nc\n\n", [1, 2, 0, 1, 0, 0]),
        ("indent", "  a b\n\tc", [1, 2, 2, 2, 2, 0, 1, 1]),
        ("word", "ab, c", [1, 2, 0, 0, 1]),
        ("capitals", "A B:b C\n", [1, 1, 1, 1, 0, 0, 1, 0]),
    ],
)
def test_a_feature_is_as_defined(name, text, values):
    assert feature_of(list(text), name).tolist() == values
    assert feature_of([text[:3], text[3:]], name).tolist() == [values[2], values[-1]], "after a token's last character"
    assert len([*FEATURES[name]("")]) == 0


def test_a_unit_that_is_the_feature_comes_first(runs, monkeypatch):
    def planted(model, read, layer=0):
        made_TH = np.random.default_rng(0).normal(size=(len(read), 16))
        made_TH[1:, 5] = -feature_of([runs["lstm"].tokenizer.token_text(id) for id in read[1:]], "brackets")
        return made_TH

    monkeypatch.setattr("lmlab.seeing.cells.cells_of", planted)
    best = runs["lstm"].inspect.cells(text=TEXT, feature="brackets").rows[0]
    assert best == {"unit": 5, "r, first half": pytest.approx(-1), "r, second half": pytest.approx(-1)}


def test_correlations_are_pearsons_and_none_of_what_is_constant():
    values = np.random.default_rng(0).normal(size=(50, 3))
    values[:, 2] = 4.0
    feature = values[:, 0] + np.random.default_rng(1).normal(size=50)
    expected = [np.corrcoef(values[:, at], feature)[0, 1] for at in (0, 1)]
    assert correlations(values, feature).tolist() == pytest.approx([*expected, 0.0])


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_gradient_is_what_a_small_change_of_the_state_does(kind, layers):
    model, lag, change = network(kind, layers=layers).double(), 3, 1e-6
    read_BT = ids(1, 12)
    found = gradients_of(model, read_BT, lags=5, layer=layers - 1)
    with torch.no_grad():
        _, state = model.read(read_BT[:, : -lag - 1])

        def loss(tensors):
            logits, _ = model(read_BT[:, -lag - 1 : -1], TensorState(tensors))
            return -logits[0, -1].log_softmax(-1)[read_BT[0, -1]]

        for part, norm_KB in enumerate((found.hidden_KB, found.cell_KB)[: len(state.tensors)]):
            slopes = []
            for unit in range(16):
                moved = [tensor.clone() for tensor in state.tensors]
                if part == 1:  # what the cell holds shows in the hidden state of its own position, too
                    h, c = (tensor[0, -1, unit] for tensor in moved)
                    h *= (c + change).tanh() / c.tanh()
                moved[part][0, -1, unit] += change
                slopes.append((loss(tuple(moved)) - loss(state.tensors)).item() / change)
            assert norm_KB[lag, 0] == pytest.approx(np.linalg.norm(slopes), rel=1e-3)


def test_gradients_of_an_rnn_fall_by_orders_of_magnitude_more_than_those_of_an_lstm(runs):
    found = {
        kind: gradients_of(fresh(runs["lstm"], kind), ids(4, 110).clamp(max=runs["lstm"].tokenizer.vocab_size - 1), 100)
        for kind in CELLS
    }
    assert found["rnn"].share(100) < 1e-3 * found["lstm"].share(100)
    assert found["lstm"].share(100) < found["lstm"].share(100, cell=True), "the cell state is the way back"


def test_a_fresh_network_is_what_training_began_with(runs):
    begun = lmlab.train(text=TEXT, tokenizer="char", model={"kind": "gru", "hidden": 16}, steps=0, seed=3)
    made = fresh(begun, "gru")
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), begun.model.parameters(), strict=True))
    assert all(values == pytest.approx(2) for values in singular_values(fresh(begun, "lstm", 2.0)).values())


def test_the_norm_that_clipping_compares_is_that_of_the_mean_loss():
    model, read_BT = network("gru"), ids(4, 10)
    (norm,) = batch_norms(model, read_BT, 4)
    nats, _ = model.loss(read_BT[:, :-1], read_BT[:, 1:])
    (nats / 40).backward()
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)), rel=1e-5)


def test_several_runs_are_drawn_together_and_told_in_rows(runs):
    picture = runs["rnn"].inspect.gradients(runs["lstm"], text=TEXT, lags=20, pieces=3)
    assert [(row["model"], row["when"]) for row in picture.rows] == [
        *((kind, "fresh") for kind in CELLS), ("rnn", "trained"), ("lstm", "trained")
    ]  # fmt: skip
    wild = runs["rnn"].inspect.gradients(text=TEXT, lags=20, pieces=3, scale=4.0)
    assert wild.rows[0]["log10, lag 20"] > picture.rows[0]["log10, lag 20"]
    assert "lag 20" in picture.rows[0].keys().__repr__()


# -- attention, embeddings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 6, 20])
def test_attention_weights_of_ours_give_what_its_attention_gives(runs, length):
    model, seen = runs["transformer"].model, []
    read = [BOS, *[5 + at % 7 for at in range(length)]]
    hooks = [
        block.register_forward_hook(lambda _module, _given, out: seen.append(out[2][0])) for block in model.blocks
    ] + [
        block.attended.register_forward_pre_hook(lambda _module, given: seen.append(given[0][0]))
        for block in model.blocks
    ]
    weights_LATT = torch.from_numpy(attention_of(model, read))
    for hook in hooks:
        hook.remove()
    for weights_ATT, (mixed_TD, values_ATF) in zip(weights_LATT, [seen[:2], seen[2:]], strict=True):
        assert torch.allclose((weights_ATT @ values_ATF).transpose(0, 1).flatten(1), mixed_TD, atol=1e-5)
    assert torch.allclose(weights_LATT.sum(-1), torch.ones(2, 2, length + 1), atol=1e-5)
    assert not weights_LATT.triu(1).any()
    assert not weights_LATT.tril(-8).any(), "the window is 8"


@pytest.mark.parametrize("kind", ["gpt2", "Llama"])
def test_hugging_face_models_give_attention_and_embedding(tmp_path, kind):
    lm = lmlab.TextModel.load(f"hf:{huggingface.save(tmp_path, kind)}")
    before = lm.model.network.config._attn_implementation
    read = [BOS, *lm.ids("the hen ate it")]
    weights_LATT = attention_of(lm.model, read)
    assert weights_LATT.shape == (2, 2, len(read), len(read))
    assert np.allclose(weights_LATT.sum(-1), 1, atol=1e-5)
    assert lm.model.network.config._attn_implementation == before
    assert len(lm.inspect.attention(text="the hen ate it").rows) == 4
    assert len(lm.inspect.neighbours(text="he", k=3).rows) == 3 * len(set(lm.ids("he")))
    with pytest.raises(UsageError, match="window of 64"):
        attention_of(lm.model, [5] * 65)


def test_neighbours_are_those_of_the_largest_cosine(runs):
    lm = runs["gru"]
    table_VE = embedding_of(lm.model)
    picture = lm.inspect.neighbours(text="f", k=2)
    (id,) = lm.ids("f")
    product = table_VE[4:] @ table_VE[id] / np.linalg.norm(table_VE[4:], axis=1) / np.linalg.norm(table_VE[id])
    assert [row["cosine"] for row in picture.rows] == pytest.approx(np.sort(product)[-2:-4:-1].tolist(), abs=1e-5)
    assert cosines_of(np.zeros((2, 3)), [0]).tolist() == [[0, 0]]


def test_principal_axes_find_the_two_directions_that_vary():
    points = np.random.default_rng(0).normal(size=(30, 2)) * [5, 2]
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0][:2]
    places, shares = principal_axes(points @ turned + 3)
    assert shares.sum() == pytest.approx(1)
    between = [np.linalg.norm(each[:, None] - each, axis=-1) for each in (places, points)]
    assert np.allclose(*between)


# -- every picture, and bad input --------------------------------------------------------------------------------------


OF = {"gates": "lstm", "cells": "gru", "gradients": "rnn", "attention": "transformer", "neighbours": "gru"}
SMALL = {"gradients": ["--lags", "12", "--pieces", "2"], "cells": ["--tokens", "400"]}


@pytest.mark.parametrize("name", INSPECTIONS)
def test_every_picture_is_a_command_that_draws_and_tells(runs, name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["inspect", name, str(runs[OF[name]].folder), *SMALL.get(name, [])]
    words += [] if name == "neighbours" else ["--text", TEXT[:400]]
    assert main([*words, "-o", "a.svg", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("kind", ["rnn", "gru"])
def test_gates_of_the_others_are_drawn_too(runs, kind, tmp_path):
    picture = runs[kind].inspect.gates(text=TEXT[:30], units=(3, 1))
    assert picture.save(tmp_path / "a.png").stat().st_size > 1000
    assert [row["unit"] for row in picture.rows] == [3] * 31 + [1] * 31


def test_a_coloured_text_is_a_page_too(runs, tmp_path):
    page = runs["lstm"].inspect.cells(text="<b\n" + TEXT, unit=7).save(tmp_path / "a.html").read_text()
    assert "&lt;" in page
    assert "Unit 7" in page
    assert page.count("<span") == len("<b\n" + TEXT)


def test_a_long_text_is_read_as_far_as_asked(runs):
    picture = runs["lstm"].inspect.cells(text=TEXT * 200, tokens=500)
    assert "250 and 250 tokens" in picture.note
    assert len(runs["lstm"].inspect.gates(text=TEXT * 200, units=(0,), tokens=20).rows) == 21


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gates", "ngram"], "gates are those of a recurrent network"),
        (["gates", "transformer"], "--model lstm, gru or rnn"),
        (["gates", "lstm", "--layer", "1"], "layer is 1, but must be an integer from 0 to 0"),
        (["gates", "lstm", "--units", "3,16"], "unit is 16, but must be an integer from 0 to 15"),
        (["gates", "lstm", "--units", "a"], "units"),
        (["gates", "lstm", "--tokens", "1"], "tokens is 1"),
        (["gates", "lstm", "--text", "\u20ac"], "€"),
        (["cells", "ngram"], "cells are those"),
        (["cells", "gru", "--unit", "-1"], "unit is -1"),
        (["cells", "gru", "--feature", "rhyme"], "no feature is called 'rhyme'"),
        (["cells", "gru", "--text", "return", "--feature", "quotes"], "'quotes' never changes"),
        (["cells", "gru", "--text", "a"], "never changes"),
        (["cells", "gru", "--k", "17"], "k is 17"),
        (["gradients", "ngram"], "gradients through time are those"),
        (["gradients", "rnn", "transformer"], "this model is a Transformer"),
        (
            ["gradients", "rnn", "--text", "def f(x)"],
            "the longest document read has 9 tokens, but 234 are needed: lower",
        ),
        (["gradients", "rnn", "--lags", "0"], "lags is 0"),
        (["gradients", "rnn", "--scale", "0"], "scale is 0"),
        (["gradients", "rnn", "--layer", "2", "--lags", "2"], "layer is 2"),
        (["attention", "lstm"], "name a run of --model transformer, or hf:PATH_OR_NAME"),
        (["attention", "transformer", "--layer", "2"], "layer is 2"),
        (["neighbours", "ngram"], "has none that was learned"),
        (["neighbours", "one-hot"], "input=one-hot"),
        (["neighbours", "gru", "--k", "0"], "k is 0"),
        (["neighbours", "gru", "--text", "\u20ac"], "€"),
    ],
)
def test_bad_input_is_one_line_that_says_what_works(runs, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", *(str(runs[word].folder) if word in runs else word for word in words)]) in (1, 2)
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_without_held_out_text_asks_for_one(runs):
    lm = lmlab.train(text="abcabc" * 20, tokenizer="char", model={"kind": "rnn", "hidden": 8}, steps=0, split="none")
    with pytest.raises(UsageError, match="give a text, with --text"):
        lm.inspect.gates()
    with pytest.raises(SettingError, match="text is 3"):
        lm.inspect.gates(text=3)
