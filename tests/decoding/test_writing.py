"""Texts written by compiled loops are those that the plain path writes, to rounding."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import lmlab.kernels.writing.network
from lmlab.decoding import (
    Beam,
    BeamSample,
    Branch,
    DiverseBeam,
    Greedy,
    Rows,
    Sample,
    StopIds,
    Strategy,
    decode,
    decode_all,
    finish,
    finish_all,
)
from lmlab.decoding.chain import chain_of, run
from lmlab.decoding.writing import _known
from lmlab.errors import LmlabError
from lmlab.kernels import only
from lmlab.kernels.writing.layout import BlockWeights, Rule
from lmlab.models.neural.base import NeuralModel
from lmlab.models.neural.cnn import CNN
from lmlab.models.neural.rnn import GRU, LSTM, RNN, RecurrentSettings
from lmlab.models.neural.transformer import Transformer
from lmlab.models.neural.transformer_reader import TransformerReader
from lmlab.models.ngram.model import Ngram
from lmlab.vocabulary import BOS, EOS

VOCAB = 23
SETTINGS: list[dict[str, Any]] = [{}, {"layers": 2}, {"input": "tied"}, {"input": "one-hot", "layers": 3}]
CONVOLUTIONS: list[dict[str, Any]] = [
    {"layers": 1, "kernel": 1},
    {"layers": 3, "kernel": 2, "dilation": 3},
    {"layers": 2, "kernel": 3, "gated": True, "embedding": 6},
    {"layers": 2, "kernel": 3, "residual": False},
]
WINDOWS = (1, 3, 5, 64)
CHAINS = ["", "temperature=0.7,top_k=5", "top_k=9,top_p=0.8,temperature=1.5", "min_p=0.1", "temperature=0", "top_p=0.3"]


def network(kind: type[Any], **settings: Any) -> NeuralModel:
    torch.manual_seed(0)
    model: NeuralModel = kind(RecurrentSettings(hidden=24, embedding=8, **settings), VOCAB).eval()
    return steep(model, **settings)


def steep(model: NeuralModel, **settings: Any) -> NeuralModel:
    """Predictions that differ."""
    with torch.no_grad():
        if settings.get("softmax") != "adaptive":
            model.output.bias.normal_()  # type: ignore[operator,union-attr]
    return model


def convolutions(settings: dict[str, Any]) -> NeuralModel:
    torch.manual_seed(0)
    return steep(CNN(CNN.Settings(channels=6, **{"embedding": 5} | settings), VOCAB).eval())


def transformer(window: int) -> NeuralModel:
    torch.manual_seed(0)
    model = Transformer(Transformer.Settings(width=16, layers=2, heads=2, window=window), VOCAB).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return steep(model)


several = pytest.mark.parametrize(
    "model",
    [network(LSTM, layers=2), convolutions({"layers": 2, "kernel": 3}), transformer(20)],
    ids=lambda model: type(model).__name__,
)


def both(write: Callable[[], list[Branch]]) -> tuple[list[Branch], list[Branch]]:
    with only(False):
        plain = write()
    with only(True):
        return plain, write()


def assert_same(plain: Sequence[Branch], written: Sequence[Branch]) -> None:
    assert [branch.ids() for branch in plain] == [branch.ids() for branch in written]
    assert [branch.end for branch in plain] == [branch.end for branch in written]
    for one, other in zip(plain, written, strict=True):
        for name in ("logp", "drawn_logp", "total", "drawn_total", "length", "lane"):
            values = [[getattr(node, name) for node in branch.path()] for branch in (one, other)]
            assert values[0] == pytest.approx(values[1], abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_every_recurrent_network_writes_what_it_steps(kind: type[Any], settings: dict[str, Any]) -> None:
    assert_writes_what_it_steps(network(kind, **settings))


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_convolutions_write_what_they_step(settings: dict[str, Any]) -> None:
    assert_writes_what_it_steps(convolutions(settings))


@pytest.mark.parametrize("window", WINDOWS)
def test_transformers_write_what_they_step(window: int) -> None:
    assert_writes_what_it_steps(transformer(window))


def assert_writes_what_it_steps(model: NeuralModel) -> None:
    model.temperature = 1.25
    strategies: list[Strategy] = [Greedy(), *(Sample(chain, seed=3) for chain in CHAINS)]
    for strategy in strategies:
        for prompt in ([], [5, 6, 7], [*range(4, 20)]):
            assert_same(*both(lambda p=prompt, s=strategy: finish(decode(model, p, s, max_tokens=40))))  # type: ignore[misc]


@pytest.mark.parametrize("smoothing", ["kneser-ney", "stupid-backoff", "add-k"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_every_ngram_model_writes_what_it_steps(order: int, smoothing: str) -> None:
    rng = np.random.default_rng(order)
    texts = [[BOS, *(4 + rng.integers(0, 8, 60) // rng.integers(1, 4, 60)), EOS] for _ in range(20)]
    settings = Ngram.Settings(order=order, smoothing=smoothing)
    model = Ngram.estimate(settings, VOCAB, np.concatenate(texts).astype(np.uint16))
    strategies: list[Strategy] = [Greedy(), *(Sample(chain, seed=3) for chain in CHAINS)]
    for strategy in strategies:
        for prompt in ([], [5, 6, 7, 5, 4, 9], [20], [20, 5]):  # 20 was never seen
            assert_same(*both(lambda p=prompt, s=strategy: finish(decode(model, p, s, max_tokens=40))))  # type: ignore[misc]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_recurrent_networks_step_in_numpy_as_in_torch(kind: type[Any], settings: dict[str, Any]) -> None:
    model = network(kind, **settings)
    model.temperature = 0.8
    assert_same_steps(model, model.reader(3))  # type: ignore[operator]


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_convolutions_step_in_numpy_as_in_torch(settings: dict[str, Any]) -> None:
    model = convolutions(settings)
    model.temperature = 0.8
    assert_same_steps(model, model.reader(3))  # type: ignore[operator]


@pytest.mark.parametrize("window", WINDOWS)
def test_transformers_step_in_numpy_as_in_torch(window: int) -> None:
    model = transformer(window)
    model.temperature = 0.8
    assert_same_steps(model, TransformerReader(BlockWeights.of(model.as_arrays(), model.settings, 0.8)))  # type: ignore[arg-type]
    for kernels in (False, True):
        with only(kernels):
            assert_same_steps(model, model.reader(3))  # type: ignore[operator]


@pytest.mark.parametrize("order", [1, 4])
def test_ngram_models_step_in_numpy_as_in_torch(order: int) -> None:
    ids_N = np.array([BOS, *np.random.default_rng(0).integers(4, 9, 300), EOS], np.uint16)
    model = Ngram.estimate(Ngram.Settings(order=order, smoothing="stupid-backoff"), VOCAB, ids_N)
    assert_same_steps(model, model.reader(3))


def assert_same_steps(model: Any, reader: Any) -> None:
    prompts = [[5, 6], [], [7, 8, 9, 4]]
    logp_BV, state = model.start(prompts)
    own_BV, own = reader.start(prompts)
    for rows, tokens in (
        ([0, 1, 2], [4, 5, 6]),
        ([2, 2, 0, 1], [7, 7, 5, 4]),
        ([3, 0], [8, 4]),
        ([1], [5]),
        ([0], [6]),
    ):
        assert own_BV == pytest.approx(logp_BV.numpy(), abs=1e-5)
        old = own
        logp_BV, state = model.step(state.select(torch.tensor(rows)), torch.tensor(tokens))
        own_BV, own = reader.step(own.select(rows), tokens)
        assert (reader.step(old.select(rows), tokens)[0] == own_BV).all()  # a state is a value


@several
def test_many_texts_and_prompts(model: NeuralModel) -> None:
    def write() -> list[Branch]:
        steps = decode_all(model, [[5], [], [6, 7]], Sample(seed=1), n=3, max_tokens=150, forbidden=[4, 9])
        return [branch for several in finish_all(steps) for branch in several]

    plain, written = both(write)
    assert_same(plain, written)
    assert len({tuple(branch.ids()) for branch in written}) > 3


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_beams_in_loops_are_those_of_the_search(kind: type[Any], settings: dict[str, Any]) -> None:
    model = network(kind, **settings)
    model.temperature = 0.9
    for beam, n in (
        (Beam(width=1), 1),
        (Beam(width=4), 4),
        (Beam(width=7, length_penalty=0, early_stopping="first"), 2),
        (Beam(width=3, length_penalty=2, early_stopping="heuristic"), 3),
    ):
        for forbidden in ([], [EOS, 5]):
            assert_same_steps_of_beams(model, beam, n, forbidden=forbidden, max_tokens=25)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_beams_of_ngram_models_resolve_every_tie_as_the_search(order: int) -> None:
    ids_N = np.array([BOS, *np.random.default_rng(0).integers(4, 9, 300), EOS], np.uint16)
    model = Ngram.estimate(Ngram.Settings(order=order, smoothing="stupid-backoff"), VOCAB, ids_N)
    for beam in (Beam(width=1), Beam(width=5), Beam(width=6, length_penalty=0), Beam(width=40)):
        for forbidden in ([], [EOS, 5]):
            assert_same_steps_of_beams(model, beam, 1, forbidden=forbidden, max_tokens=25)


def assert_same_steps_of_beams(model: Any, beam: Beam, n: int, **limits: Any) -> None:
    def shown(branch: Branch) -> tuple[Any, ...]:
        return branch.ids(), branch.end, *near(branch.score, branch.total, branch.drawn_total, branch.perplexity)

    def near(*values: float) -> list[Any]:
        return [pytest.approx(value, abs=1e-4, rel=1e-4) for value in values]

    def run() -> list[Any]:
        prompts = [[5, 6], [], [7, 8, 9, 4]]
        steps = [[step for step in several if step] for several in decode_all(model, prompts, beam, n=n, **limits)]
        return [step for several in steps for step in several]

    with only(False):
        searched = run()
    with only(True):
        written = run()
    assert len(searched) == len(written)
    for one, other in zip(searched, written, strict=True):
        for name in ("live", "ended", "best", "rivals"):
            assert [shown(branch) for branch in getattr(other, name)] == [shown(each) for each in getattr(one, name)]
        assert one.done == other.done
        assert [(cut.parent.ids(), cut.token, cut.why) for cut in other.pruned] == [
            (cut.parent.ids(), cut.token, cut.why) for cut in one.pruned
        ]
        assert [cut.score for cut in other.pruned] == near(*[cut.score for cut in one.pruned])


def test_beams_in_loops_resolve_ties_as_the_search() -> None:
    model = network(LSTM)
    with torch.no_grad():
        model.output.weight.zero_()  # type: ignore[operator,union-attr]
        model.output.bias.zero_()  # type: ignore[operator,union-attr]
        model.output.bias[10:15] = 1  # type: ignore[index]
        model.output.bias[EOS] = 1  # type: ignore[index]
    for width in (2, 5, 8):
        assert_same_steps_of_beams(model, Beam(width=width), width, max_tokens=6)


def test_limits_that_loops_do_not_know_go_through_the_search() -> None:
    model = network(GRU)
    for limits in ({"stop": StopIds([[7]])}, {"alternatives": 2}, {"max_seconds": 0}):
        assert_same(*both(lambda k=limits: finish(decode(model, [], Beam(width=3), n=2, max_tokens=30, **k))))  # type: ignore[misc]
    strategies = Beam("top_k=4,temperature=0.7", width=3), DiverseBeam(), BeamSample(width=3, seed=1)
    for strategy in strategies:
        assert_same(*both(lambda s=strategy: finish(decode(model, [], s, n=2, max_tokens=30))))  # type: ignore[misc]


@several
def test_a_text_is_the_same_bit_for_bit_alone_among_others_and_on_threads(
    model: NeuralModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(n: int) -> list[tuple[list[int], float]]:
        return [(one.ids(), one.total) for one in finish(decode(model, [9], Sample(seed=5), n=n, max_tokens=30))]

    with only(True):
        many = written(100)
        assert many[:1] == written(1)
        assert many[:7] == written(7)
        monkeypatch.setattr(lmlab.kernels.writing.network, "_WORK", 1)
        monkeypatch.setattr(lmlab.kernels.engine, "cores", lambda: 3)
        assert many == written(100)


@pytest.mark.parametrize("name", ["recurrent.weight_hh_l0", "output.bias", "embedding.weight", "recurrent.bias_ih_l0"])
def test_weights_that_change_in_place_are_noticed(name: str) -> None:
    model = network(LSTM)

    def total() -> float:
        return finish(decode(model, [], Sample(seed=4), max_tokens=30))[0].total

    with only(True):
        totals = [total(), total()]
        weight = dict(model.named_parameters())[name].data
        weight.copy_(weight.flip(0))  # the same numbers elsewhere, and nothing that torch counts
        totals.append(total())
        model.temperature = 0.5
        totals.append(total())
    assert totals[0] == totals[1]
    assert len(set(totals)) == 3


@pytest.mark.parametrize(
    ("rows", "features", "length"), [(1, 5, 3), (2, 32, 128), (6, 70, 131), (7, 33, 300), (13, 1, 1)]
)
def test_product_by_panels_is_that_of_numpy(rows: int, features: int, length: int) -> None:
    from lmlab.kernels.writing.panels import add_product, packed, width

    rng = np.random.default_rng(rows)
    matrix_FH, x_BH = rng.normal(size=(features, length)).astype("f"), rng.normal(size=(rows, length)).astype("f")
    found = []
    for back in (False, True):
        y_BW = np.ones((rows, width(features)), np.float32)
        add_product(packed(matrix_FH[None])[0], x_BH, y_BW, back)
        assert y_BW[:, :features] == pytest.approx(1 + x_BH @ matrix_FH.T, abs=1e-4)
        assert (y_BW[:, features:] == 1).all()
        found.append(y_BW)
    assert (found[0] == found[1]).all()


def test_stop_and_steps() -> None:
    model = network(GRU)
    with only(True):
        free = finish(decode(model, [], Sample(seed=2), max_tokens=30, forbidden=[EOS]))[0].ids()
        stop = StopIds([free[10:12]])
        steps = list(decode(model, [], Sample(seed=2), max_tokens=30, forbidden=[EOS], stop=stop))
    assert steps[-1].best[0].end == "stop"
    assert steps[-1].best[0].ids() == free[: len(steps)]
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert all(len(step.live) == 1 and not step.ended and step.stable == at for at, step in enumerate(steps[:-1], 1))
    assert not steps[-1].live
    assert len(steps[-1].ended) == 1


def test_broken_weights_are_told() -> None:
    model = network(LSTM)
    with torch.no_grad():
        model.output.bias[7] = torch.nan
    for strategy in (Greedy(), Beam(width=3)):
        with only(True), pytest.raises(LmlabError, match="NaN"):
            finish(decode(model, [], strategy))


def test_weights_that_change_are_packed_anew() -> None:
    model = transformer(5)
    one, same = (model.reader(1).start([[5]])[0] for _ in range(2))  # type: ignore[operator]
    assert (one == same).all()
    for weight in model.parameters():
        weight.data.mul_(1.1)  # which torch does not count
        changed = model.reader(1).start([[5]])  # type: ignore[operator]
        stepped, _ = model.reader(1).step(changed[1], [6])  # type: ignore[operator]
        assert stepped == pytest.approx(model.step(model.start([[5]])[1], torch.tensor([6]))[0].numpy(), abs=1e-5)


def test_texts_whose_columns_fill_the_memory_are_left_to_torch() -> None:
    model = CNN(CNN.Settings(channels=300, embedding=1, layers=3, kernel=2, dilation=512), 5)
    assert model.eval().reader(1) is model.batch_writer([[]], 50) is None


def test_a_reader_is_asked_for_as_many_rows_as_texts_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = network(GRU), list[int]()
    monkeypatch.setattr(model, "reader", asked.append)
    for strategy, rows in ((Beam("top_k=4", width=5), 5), (DiverseBeam(width=6), 6), (Sample("penalties", seed=1), 2)):
        finish(decode(model, [], strategy, n=2, max_tokens=2))
        assert asked.pop() == rows


def test_no_writer_where_the_model_is_not_as_the_loops_want_it() -> None:
    model = network(LSTM)
    assert model.batch_writer([[]], 50) is not None  # type: ignore[attr-defined]
    for other in (network(LSTM).train(), network(LSTM).double(), network(LSTM, softmax="adaptive")):
        assert other.batch_writer([[]], 50) is None  # type: ignore[attr-defined]
    assert_same(*both(lambda: finish(decode(model, [], Sample("penalties", seed=1), max_tokens=20))))


@pytest.mark.parametrize("chain", [*CHAINS, "top_k=1", "min_p=1", "min_p=0", "temperature=1e-9,top_p=0.9", "top_k=999"])
def test_choice_is_that_of_the_processors(chain: str) -> None:
    from lmlab.kernels.writing.choice_loops import choose, room_to_choose

    rng, processors = np.random.default_rng(0), chain_of(chain)
    known = [pair for process in processors if (pair := _known(process))]
    assert len(known) == len(processors)
    for trial in range(60):
        logits_V = rng.normal(0, rng.choice([0.1, 3, 30]), VOCAB).astype(np.float32)
        logits_V = np.round(logits_V) if trial % 3 == 0 else logits_V  # ties
        logits_V[rng.random(VOCAB) < 0.2] = -np.inf
        logits_V[8] = 1
        norm = np.log(np.exp(logits_V.astype(np.float64)).sum())
        logp_BV = logits_V[None] - norm
        passes = list(run(processors, Rows([[]], [Branch.root()], EOS), logp_BV))
        chain_BV = passes[-1][2] if passes else logp_BV
        below_V = chain_BV[0] - chain_BV.max()
        drawn_V = below_V - np.log(np.exp(below_V).sum())
        for uniform in (0.0, rng.random(), 1 - 2**-53):
            rule = Rule.of(False, EOS, [], known)
            token, logp, drawn = choose(logits_V, norm, rule, uniform, room_to_choose(VOCAB))
            upto_V = np.exp(drawn_V).cumsum()
            assert upto_V[token] - np.exp(drawn_V[token]) - 1e-6 <= uniform <= upto_V[token] + 1e-6
            assert drawn_V[token] > -np.inf
            assert (logp, drawn) == pytest.approx((logp_BV[0, token], drawn_V[token]), abs=2e-6)
        token, _, _ = choose(logits_V, norm, rule._replace(greedy=True), 0.0, room_to_choose(VOCAB))
        assert token == chain_BV[0].argmax()


def test_forbidden_ids_are_chosen_only_where_there_is_no_other() -> None:
    from lmlab.kernels.writing.choice_loops import choose, room_to_choose

    logits_V = np.array([-np.inf, 2, 1, 3], np.float32)
    norm = float(np.log(np.exp(logits_V).sum()))
    for forbidden, wanted in (([3], 1), ([1, 3], 2), ([1, 2, 3], 3)):
        assert choose(logits_V, norm, Rule.of(True, EOS, forbidden, []), 0.0, room_to_choose(4))[0] == wanted


def test_ngram_models_generate_without_torch() -> None:
    program = """
import sys
import numpy as np
from lmlab.decoding import Beam, Sample, decode, finish
from lmlab.models.ngram.model import Ngram
model = Ngram.estimate(Ngram.Settings(order=2), 9, np.array([2, 4, 5, 6, 4, 7, 8, 3], np.uint16))
for strategy in (Sample("penalties", seed=1), Beam(width=3)):
    finish(decode(model, [4], strategy, max_tokens=9))
print(sorted({"torch", "numba"} & sys.modules.keys()))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
