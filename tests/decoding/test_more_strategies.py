"""The strategies beside greedy choice, sampling and beams, on models whose every text can be written down."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from lmlab.decoding import (
    MBR,
    PROCESSORS,
    STRATEGIES,
    Beam,
    BeamSample,
    Constrained,
    Contrastive,
    DiverseBeam,
    Exact,
    Greedy,
    Lookup,
    Sample,
    Speculative,
    StochasticBeam,
    decode,
    decode_all,
    detect,
    finish,
    finish_all,
    strategy_of,
)
from lmlab.decoding.processors import mirostat
from lmlab.errors import LmlabError, SettingError, UsageError
from lmlab.models.neural.cnn import CNN
from lmlab.models.neural.rnn import LSTM
from lmlab.models.neural.transformer import Transformer
from lmlab.models.toy import RowCount, Scripted, Uniform

A, B, C = 4, 5, 6


def row(eos=0.0, a=0.0, b=0.0, c=0.0):
    return [0, 0, 0, eos, a, b, c]


MODEL = Scripted.make(
    {(): row(a=0.5, b=0.3, c=0.2), (A,): row(eos=0.2, a=0.1, b=0.7), (B,): row(eos=0.6, c=0.4)},
    row(eos=0.1, a=0.6, b=0.2, c=0.1),
)
DRAFT = Scripted.make({(): row(a=0.1, b=0.8, c=0.1), (A,): row(eos=1)}, row(eos=0.25, a=0.25, b=0.25, c=0.25))
EVERY = [
    Greedy(),
    Sample(seed=1),
    Beam(width=3),
    BeamSample(width=3, seed=1),
    DiverseBeam(width=4, groups=2),
    StochasticBeam(width=3, seed=1),
    Constrained(must=[[C]], width=3),
    MBR(samples=5, seed=1),
    Exact(),
    Speculative(draft=DRAFT, seed=1),
    Lookup(seed=1),
]
every = pytest.mark.parametrize("strategy", EVERY, ids=lambda strategy: type(strategy).__name__)


def texts(model, strategy, prompt=(), **options):
    return [branch.ids() for branch in finish(decode(model, prompt, strategy, **options))]


def read(branch):
    return tuple(node.token for node in branch.path())


def chances(model, chain, depth):
    """The probability of each text of up to `depth` tokens, after the processors."""
    found = {}
    for branch in finish(decode(model, [], StochasticBeam(*chain, width=1000, seed=0), n=1000, max_tokens=depth)):
        found[read(branch)] = math.exp(branch.drawn_total)
    assert sum(found.values()) == pytest.approx(1)
    return found


def off(drawn, expected):
    """Chi-square in standard deviations above its mean."""
    assert set(drawn) <= set(expected)
    total = sum(drawn.values())
    square = sum((drawn[ids] - total * p) ** 2 / (total * p) for ids, p in expected.items())
    freedom = len(expected) - 1
    return (square - freedom) / math.sqrt(2 * freedom)


def test_all_strategies_are_here():
    assert {type(strategy) for strategy in EVERY} | {Contrastive} == set(STRATEGIES.values())


@pytest.mark.parametrize("chain", ["", "temperature=0.7,top_k=3"])
@pytest.mark.parametrize(
    "strategy", [Sample, lambda *chain, seed: Speculative(*chain, draft=DRAFT, lookahead=2, seed=seed), Lookup]
)
def test_a_draft_leaves_the_distribution_as_it_was(strategy, chain):
    drawn = Counter(map(read, finish(decode(MODEL, [A, B, A], strategy(chain, seed=1), n=800, max_tokens=3))))
    after = Scripted.make({}, MODEL._default_V)  # what MODEL gives beyond two tokens, and so after this prompt
    assert off(drawn, chances(after, [chain], 3)) < 4


def test_a_draft_that_is_the_model_is_never_refused():
    steps = list(decode(MODEL, [], Speculative(draft=MODEL, lookahead=3, seed=2), max_tokens=8))
    lengths = [0, *(step.best[0].length for step in steps)]
    assert all(later - earlier == 4 for earlier, later in pairwise(lengths[:-1]))


def test_a_lookup_copies_what_followed():
    steps = list(decode(Scripted.make({}, row(a=1)), [A] * 6, Lookup(temperature=0, lookahead=3), max_tokens=5))
    assert [step.best[0].length for step in steps] == [2, 4, 5]  # the last run before is followed by one token only


def test_a_stochastic_beam_includes_texts_as_often_as_it_should():
    p = {A: 0.5, B: 0.3, C: 0.2}
    runs = 600
    drawn = [texts(MODEL, StochasticBeam(width=2, seed=seed), n=2, max_tokens=1) for seed in range(runs)]
    for token, mine in p.items():
        share = sum([token] in two for two in drawn) / runs
        expected = mine + sum(other * mine / (1 - other) for one, other in p.items() if one != token)
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / runs)
        first = sum(two[0] == [token] for two in drawn) / runs
        assert abs(first - mine) < 4 * math.sqrt(mine * (1 - mine) / runs)


def test_a_stochastic_beam_draws_whole_texts_without_replacement():
    expected = chances(MODEL, [], 2)
    first = Counter(
        read(finish(decode(MODEL, [], StochasticBeam(width=3, seed=seed), max_tokens=2))[0]) for seed in range(600)
    )
    assert off(first, expected) < 4
    assert len({*map(tuple, texts(Uniform(50), StochasticBeam(width=40, seed=1), n=40, max_tokens=3))}) == 40


def test_a_beam_of_one_that_draws_is_a_sample():
    drawn = Counter(
        read(finish(decode(MODEL, [], BeamSample(width=1, seed=seed), max_tokens=1))[0]) for seed in range(600)
    )
    assert off(drawn, {(A,): 0.5, (B,): 0.3, (C,): 0.2}) < 4


def test_groups_shun_one_another():
    plain = texts(MODEL, Beam(width=1), max_tokens=1)
    assert texts(MODEL, DiverseBeam(width=3, groups=3, diversity=0), n=3, max_tokens=1) == plain * 3
    assert texts(MODEL, DiverseBeam(width=3, groups=3, diversity=9), n=3, max_tokens=1) == [[A], [B], [C]]
    found = finish(decode(MODEL, [], DiverseBeam(width=3, groups=3, diversity=9), n=3, max_tokens=1))
    assert [branch.score for branch in found] == pytest.approx([math.log(p) for p in (0.5, 0.3, 0.2)])


class Facing(Uniform):
    """Its hidden state is the token read, as a direction; rows do not depend on it."""

    device = torch.device("cpu")

    def read_on(self, state, ids_BT):
        hidden_BTH = torch.eye(self.vocab_size)[ids_BT]
        row_V = torch.tensor(row(a=0.5, b=0.3, c=0.2), dtype=torch.float64).log()
        return hidden_BTH, row_V.repeat(len(ids_BT), 1), RowCount(len(ids_BT))


def test_contrastive_search_shuns_what_came_before():
    def written(prompt, **settings):
        return texts(Facing(7), Contrastive(**settings), prompt, max_tokens=4)[0]

    # Unlike what came: 0.4 p. Like it: 0.4 p - 0.6.
    assert written([], alpha=0.6, candidates=3) == [A, B, C, A]
    assert written([A], alpha=0.6, candidates=3) == [B, C, A, A]
    assert written([A], alpha=0.6, candidates=2) == [B, A, A, A]
    assert written([A], alpha=0, candidates=3) == written([], alpha=0.6, candidates=1) == [A] * 4


def test_contrastive_search_on_a_network_without_contrast_is_greedy():
    for network in (
        LSTM(LSTM.Settings(hidden=8), 12),
        CNN(CNN.Settings(), 12),
        Transformer(Transformer.Settings(), 12),
    ):
        plain, alike = (
            texts(network.eval(), strategy, [5, 6], max_tokens=8) for strategy in (Greedy(), Contrastive(alpha=0))
        )
        assert plain == alike
        assert texts(network, Contrastive(), [5, 6], max_tokens=8)
    with pytest.raises(UsageError, match="contrastive search compares hidden states, and Scripted has none"):
        decode(MODEL, [], Contrastive())
    with pytest.raises(SettingError, match="n is 2"):
        decode(network, [], Contrastive(), n=2)


@pytest.mark.parametrize("must", [[[C]], [[C], [B]], [[C, C]], [[B, A], [A, B]], [[A, A, B]], [[B, B], [B]]], ids=str)
def test_a_constrained_beam_has_its_words(must):
    model = Scripted.make({}, row(eos=0.4, a=0.4, b=0.15, c=0.05))
    for ids in texts(model, Constrained(must=must, width=8), n=2, max_tokens=7):
        assert all(any(ids[at : at + len(word)] == word for at in range(len(ids))) for word in must), ids


@pytest.mark.parametrize("must", [[[A]], [[B, B], [B]]])
def test_a_constraint_that_cannot_be_met_is_told(must):
    model = Scripted.make({}, row(eos=0.5, c=0.5))
    with pytest.raises(LmlabError, match="no text of up to 4 tokens that was found has all of the"):
        finish(decode(model, [], Constrained(must=must), max_tokens=4))


def test_the_text_of_least_risk_is_the_one_others_resemble():
    model = Scripted.make({(): row(a=0.36, b=0.3, c=0.34), (A,): row(a=1), (B,): row(c=1), (C,): row(c=1)}, row(eos=1))
    assert texts(model, Greedy()) == [[A, A]]
    assert texts(model, MBR(samples=200, seed=0, order=1))[0][-1] == C  # C C and B C share one, A A stands alone
    assert len(texts(model, MBR(samples=50, seed=0), n=3)) == 3


def test_best_first_search_lists_the_best_texts_in_order():
    found = finish(decode(MODEL, [], Exact(), n=6, max_tokens=4))
    expected = sorted(chances(MODEL, [], 4).values(), reverse=True)[:6]
    assert [math.exp(branch.total) for branch in found] == pytest.approx(expected)
    with pytest.raises(LmlabError, match="the 6 likeliest texts are not among the first 2 beginnings"):
        finish(decode(MODEL, [], Exact(readings=2), n=6, max_tokens=4))


@every
def test_time_ends_all_texts(strategy):
    if isinstance(strategy, Constrained):
        pytest.skip("a text without its word is an error")
    for branch in finish(decode(Uniform(7), [], strategy, max_seconds=0)):
        assert branch.end == ("eos" if branch.token == 3 else "time")
        assert branch.length == 1


@every
def test_a_prompt_in_a_batch_goes_on_as_alone(strategy):
    prompts = [[A, B], [], [C, C, C]]
    together = finish_all(decode_all(MODEL, prompts, strategy, max_tokens=6))
    alone = [finish(decode(MODEL, prompt, strategy, max_tokens=6)) for prompt in prompts]
    assert [[*map(read, branches)] for branches in together] == [[*map(read, branches)] for branches in alone]
    assert finish_all(decode_all(MODEL, [], strategy)) == []


@every
def test_what_is_stable_stands_in_the_end(strategy):
    n = 1 if isinstance(strategy, Greedy) else 2
    steps = list(decode(Uniform(7), [A], strategy, n=n, max_tokens=6))
    final = steps[-1].best[0].path()
    for step in steps:
        assert [node.token for node in step.best[0].path()[: step.stable]] == [
            node.token for node in final[: step.stable]
        ]
    assert steps[-1].stable == len(final)


@every
@pytest.mark.parametrize("chain", ["top_k=2", "penalties", "mirostat", "adaptive_p", "xtc=0.5", "forced=4"])
def test_every_strategy_takes_processors(strategy, chain):
    named = {name: value for name, value in vars(strategy).items() if name != "processors"}
    if isinstance(strategy, Constrained):
        named["must"] = [[A]]
    processed = type(strategy)(chain, **named)
    (branch,) = finish(decode(MODEL, [], processed, max_tokens=4, trace=True, alternatives=2))
    for node in branch.path():
        (cut,) = node.trace
        assert cut.processor == processed.processors[0]
        assert 0 < cut.mass <= 1 + 1e-9
        assert len(node.alternatives) == 2 or node.alternatives[0].logp == 0
    if chain == "forced=4":
        assert branch.path()[0].token == A


def test_the_trace_adds_up():
    (branch,) = finish(decode(MODEL, [], Greedy("top_k=2,top_p=0.6"), max_tokens=1, trace=True))
    assert [(cut.tokens, round(cut.mass, 4)) for cut in branch.trace] == [(2, 0.8), (1, 0.625)]
    assert branch.drawn_logp == 0


def test_a_beam_tells_what_it_dropped():
    steps = list(decode(MODEL, [], Beam(width=1), max_tokens=3))
    (first,) = steps[0].pruned
    assert (first.token, first.why, first.score) == (B, "width", pytest.approx(math.log(0.3)))
    assert first.parent.parent is None


def test_mirostat_remembers_along_each_text():
    (branch,) = finish(decode(MODEL, [], Sample(mirostat(tau=1), seed=3), max_tokens=5))
    mu = 2.0
    for node in branch.path():
        mu -= 0.1 * (-node.logp / math.log(2) - 1)
        assert node.memory == pytest.approx((mu,))


def test_mirostat_holds_the_surprise():
    model = Scripted.make({}, [0, 0, 0, 0, *[2.0**-at for at in range(1, 12)], 2.0**-11])
    (branch,) = finish(decode(model, [], Sample(mirostat(tau=1.2, surprise="kept"), seed=3), max_tokens=600))
    surprise = [-node.drawn_logp / math.log(2) for node in branch.path()[100:]]
    assert sum(surprise) / len(surprise) == pytest.approx(1.2, abs=0.15)


def test_a_watermark_is_detected_and_its_absence_too():
    def written(**chain):
        return finish(decode(Uniform(60), [], Sample(seed=1, min_new_tokens=200, **chain), max_tokens=200))[0].ids()

    assert detect(written(watermark=4.0), 60).z > 5
    assert abs(detect(written(), 60).z) < 4
    assert abs(detect(written(watermark=4.0), 60, key=7).z) < 4
    with pytest.raises(LmlabError, match="1 tokens are too few"):
        detect([5], 60)


@every
@pytest.mark.parametrize("chain", ["top_k=999", "top_p=1", "min_p=1", "suppressed=0 1 2 3 4 5 6", "epsilon=0.99"])
def test_bounds_that_keep_all_or_one(strategy, chain):
    named = {name: value for name, value in vars(strategy).items() if name != "processors"}
    if isinstance(strategy, Constrained):
        named["must"] = [[A]]
    assert texts(MODEL, type(strategy)(chain, **named), max_tokens=3)


def test_a_beam_wider_than_all_texts_returns_them_all():
    assert len(texts(MODEL, Beam(width=500), n=500, max_tokens=2)) == len(chances(MODEL, [], 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode(MODEL, [], Sample(seed=1), n=0), "n is 0"),
        (lambda: decode(MODEL, [], Sample(seed=1), max_seconds=-1), "max_seconds is -1"),
        (lambda: decode(MODEL, [], Sample(seed=1), alternatives=-1), "alternatives is -1"),
        (lambda: Sample(seed=-1), "seed is -1"),
        (lambda: StochasticBeam(seed=2**64), "seed is"),
        (lambda: DiverseBeam(width=4, groups=3), "width is 4, but must be a multiple of the 3 groups"),
        (lambda: Constrained(), "must is"),
        (lambda: Constrained(must=[[]]), "must is"),
        (lambda: decode(MODEL, [], Constrained(must=[[A] * 5]), max_tokens=4), "max_tokens is 4"),
        (lambda: decode(MODEL, [], MBR(samples=2), n=3), "n is 3"),
        (lambda: decode(MODEL, [], StochasticBeam(width=2), n=3), "n is 3"),
        (lambda: decode(MODEL, [], Speculative()), "draft is 'nothing'"),
        (lambda: decode(MODEL, [], Speculative(draft=Uniform(9))), "draft is 'a model of 9 tokens'"),
        (lambda: Beam(width="wide"), "width is 'wide'"),
        (lambda: Beam(early_stopping="never"), "early_stopping is 'never', but must be one of"),
        (lambda: strategy_of("beem"), "no strategy is called 'beem': did you mean 'beam'"),
        (lambda: strategy_of("beam:width=0"), "width is 0"),
        (lambda: strategy_of("beam:widht=3"), "no keyword of Beam is called 'widht'"),
        (lambda: Beam(5), "5 is no processor"),
    ],
)
def test_what_cannot_be_is_told_at_once(call, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        call()


def test_a_processor_that_breaks_a_row_is_named():
    with pytest.raises(LmlabError, match="the processors left NaN or no token at all"):
        finish(decode(MODEL, [], Sample(lambda rows, logp_BV: logp_BV * math.nan)))


def test_seeds_repeat_with_everything_that_draws():
    for name in PROCESSORS:
        strategy = Sample(name, seed=5)
        three, one = (texts(MODEL, strategy, n=n, max_tokens=8) for n in (3, 1))
        assert three[:1] == one, name


def test_constraints_in_words_need_a_text_model():
    strategy = Constrained(must=["ab"]).in_ids(lambda text: [ord(c) for c in text])
    assert strategy.must == ((97, 98),)
    with pytest.raises(SettingError):
        Constrained(must=[""])
