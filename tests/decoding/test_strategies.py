"""Strategies on scripted models whose every text can be written down."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlab.decoding import Beam, Greedy, Sample, StopIds, decode, finish
from lmlab.decoding.draws import draw
from lmlab.decoding.processors import temperature, top_k, top_p
from lmlab.errors import LmlabError, SettingError, UnknownNameError, UsageError
from lmlab.models.toy import Scripted, Uniform
from lmlab.vocabulary import EOS, UNK

A, B, C = 4, 5, 6


def row(eos=0.0, a=0.0, b=0.0, c=0.0):
    return [0, 0, 0, eos, a, b, c]


# Greedy takes A and pays for it; the best two tokens are B, <eos>.
GARDEN = Scripted.make({(): row(a=0.5, b=0.4, c=0.1), (A,): row(eos=0.3, a=0.4, b=0.3), (B,): row(eos=0.9, c=0.1)})


class Counting:
    """Counts the calls, and the rows of each."""

    def __init__(self, model):
        self.model, self.vocab_size, self.bos, self.eos = model, model.vocab_size, model.bos, model.eos
        self.started, self.stepped = [], []

    def start(self, prompts):
        self.started.append(list(prompts))
        return self.model.start(prompts)

    def step(self, state, tokens_B):
        self.stepped.append(len(tokens_B))
        return self.model.step(state, tokens_B)


def texts(model, strategy, prompt=(), **options):
    return [branch.ids() for branch in finish(decode(model, prompt, strategy, **options))]


def test_greedy_takes_the_likeliest_each_time():
    [branch] = finish(decode(GARDEN, [], Greedy(), max_tokens=2))
    assert (branch.ids(), branch.end, branch.length) == ([A, A], "length", 2)
    assert branch.total == pytest.approx(math.log(0.5 * 0.4))
    assert [node.logp for node in branch.path()] == pytest.approx([math.log(0.5), math.log(0.4)])
    assert [node.drawn_logp for node in branch.path()] == pytest.approx([node.logp for node in branch.path()])


def test_greedy_is_temperature_zero_and_a_beam_of_one():
    assert texts(GARDEN, Greedy()) == texts(GARDEN, Sample(temperature=0)) == texts(GARDEN, Beam(width=1))


@pytest.mark.parametrize("strategy", [Greedy(), Sample(seed=3), Beam(width=2)])
def test_a_strategy_says_whether_it_revises_its_text(strategy):
    shown = [step.best[0].ids() for step in decode(GARDEN, [], strategy, max_tokens=2)]
    only_grows = all(later[: len(earlier)] == earlier for earlier, later in pairwise(shown))
    assert strategy.revises is not only_grows


def test_a_beam_takes_the_states_along_when_texts_change_places():
    overtaking = Scripted.make(
        {
            (): row(a=0.5, b=0.4, c=0.1),
            (A,): row(a=0.4, b=0.3, c=0.3),
            (B,): row(a=0.1, c=0.9),
            (A, A): row(a=1),
            (B, C): row(eos=1),
        }
    )
    first, second = finish(decode(overtaking, [], Beam(width=2), n=2, max_tokens=3))
    assert (first.ids(), first.total) == ([B, C], pytest.approx(math.log(0.4 * 0.9)))
    assert (second.ids(), second.total) == ([A, A, A], pytest.approx(math.log(0.5 * 0.4)))


def test_greedy_has_one_answer():
    with pytest.raises(SettingError, match="n is 3, but must be 1"):
        decode(GARDEN, [], Greedy(), n=3)


def test_a_beam_sees_past_the_garden_path():
    best, second = finish(decode(GARDEN, [], Beam(width=3, length_penalty=0), n=2, max_tokens=2))
    assert (best.ids(), best.end, best.total) == ([B], "eos", pytest.approx(math.log(0.36)))
    assert (second.ids(), second.end, second.total) == ([A, A], "length", pytest.approx(math.log(0.2)))


def test_the_length_penalty_decides_between_short_and_long():
    model = Scripted.make({(): row(eos=0.4, a=0.6), (A,): row(a=1), (A, A): row(eos=0.5, a=0.5)}, row(eos=1))
    # <eos> alone: total ln 0.4; A A <eos>: total ln 0.3, mean ln 0.3 / 3.
    assert texts(model, Beam(width=4, length_penalty=0)) == [[]]
    assert texts(model, Beam(width=4, length_penalty=1)) != [[]]
    lengths = {penalty: Beam(width=4, length_penalty=penalty) for penalty in (0.0, 0.5, 1.0)}
    [branch] = finish(decode(model, [], lengths[0.5]))
    assert lengths[0.5].score(branch) == pytest.approx(branch.total / math.sqrt(branch.length))


def test_a_beam_waits_for_a_longer_text_that_still_can_win():
    # <eos> at once scores ln 0.5 = -0.69; A A A <eos> scores (ln 0.5) / 4 = -0.17, but only once it has ended.
    model = Scripted.make({(): row(eos=0.5, a=0.5), (A,): row(a=1), (A, A): row(a=1)}, row(eos=1))
    assert texts(model, Beam(width=2), max_tokens=10) == [[A, A, A]]


def test_a_beam_stops_as_soon_as_nothing_can_win():
    model = Counting(Scripted.make({(): row(eos=0.9, a=0.1)}, row(a=1)))
    steps = list(decode(model, [], Beam(width=2, length_penalty=0), max_tokens=1000))
    assert len(steps) == 1
    assert steps[-1].done
    assert model.stepped == []
    assert [branch.end for branch in steps[-1].best] == ["eos"]


def test_a_beam_never_returns_impossible_texts_though_it_is_wide():
    model = Scripted.make({(): row(a=0.5, b=0.5), (A,): row(eos=1)}, row(c=1))
    results = finish(decode(model, [], Beam(width=50), n=50, max_tokens=3))
    assert [branch.ids() for branch in results] == [[B, C, C], [A]]


def test_live_beams_are_listed_best_first():
    for step in decode(GARDEN, [], Beam(width=4), max_tokens=4):
        totals = [branch.total for branch in step.live]
        assert totals == sorted(totals, reverse=True)


def test_beams_share_their_past():
    first, second = finish(decode(GARDEN, [A], Beam(width=3), n=2, max_tokens=3))
    assert first is not second
    roots = {branch.path()[0].parent for branch in (first, second)}
    assert len(roots) == 1


def test_sampling_draws_what_the_scorer_says():
    draws = finish(decode(GARDEN, [], Sample(seed=3), n=4000, max_tokens=1))
    share = sum(branch.token == A for branch in draws) / 4000
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 4000)
    assert {branch.token for branch in draws} == {A, B, C}


def test_a_row_draws_the_same_alone_or_in_company_whatever_ends():
    model = Scripted.make({(): row(eos=0.5, a=0.25, b=0.25)}, row(eos=0.3, a=0.3, b=0.3, c=0.1))
    company = texts(model, Sample(seed=11), n=40, max_tokens=30)
    assert len(set(map(len, company))) > 3, "rows must end at different times for this to show anything"
    for n in (1, 2, 17):
        assert texts(model, Sample(seed=11), n=n, max_tokens=30) == company[:n]


def test_a_longer_limit_only_goes_on():
    short, long = (texts(GARDEN, Sample(seed=2), prompt=[C], n=5, max_tokens=limit) for limit in (3, 9))
    assert [ids[:3] for ids in long] == short


def test_seeds_repeat_and_differ():
    model = Uniform(30)
    first = texts(model, Sample(seed=1), max_tokens=20)
    assert texts(model, Sample(seed=1), max_tokens=20) == first
    assert texts(model, Sample(seed=2), max_tokens=20) != first


def test_no_seed_is_a_fresh_one_that_can_be_read_and_used_again():
    one, other = Sample(), Sample()
    assert one.seed != other.seed
    model = Uniform(30)
    assert texts(model, one, max_tokens=20) == texts(model, Sample(seed=one.seed), max_tokens=20)


def test_named_processors_run_in_the_callers_order_after_those_given():
    assert Sample(top_p=0.9, temperature=0.5, seed=0).processors == (top_p(0.9), temperature(0.5))
    assert Sample(top_k(3), temperature=0.5, top_k=None, seed=0).processors == (top_k(3), temperature(0.5))


def test_drawn_logp_is_after_the_processors_and_logp_before():
    [branch] = finish(decode(GARDEN, [], Sample(top_k=2, seed=0), max_tokens=1))
    raw = {A: 0.5, B: 0.4}[branch.token]
    assert branch.logp == pytest.approx(math.log(raw))
    assert branch.drawn_logp == pytest.approx(math.log(raw / 0.9))


def test_processors_see_the_prompt_and_the_generated_ids():
    seen = []

    def spy(ids, logp_BV):
        seen.append([list(row) for row in ids])
        return logp_BV

    [branch] = finish(decode(Uniform(9), [7, 8], Sample(spy, seed=0), max_tokens=3))
    generated = [node.token for node in branch.path()]
    assert seen == [[[7, 8, *generated[:count]]] for count in range(len(generated))]


def test_an_unnormalised_row_is_drawn_in_proportion():
    class Doubled(Uniform):
        def start(self, prompts):
            logp, state = super().start(prompts)
            return logp + math.log(2), state

    tokens = [branch.token for branch in finish(decode(Doubled(8), [], Sample(seed=0), n=600, max_tokens=1))]
    assert set(tokens) == {1, 3, 4, 5, 6, 7}


def test_a_draw_on_the_very_edge_never_falls_on_probability_zero():
    edges = {0.0: 1, math.nextafter(0.5, 0): 1, 0.5: 3, math.nextafter(1, 0): 3}
    for scale in (1, 1 / 3, 1e-300):
        p = np.array([[0, 0.5, 0, 0.5, 0]] * len(edges)) * scale
        assert draw(p, np.array(list(edges))).tolist() == list(edges.values())


@given(
    weights=st.lists(st.sampled_from([0, 0, 1, 5, 1e-12]), min_size=3, max_size=6).filter(any), seed=st.integers(0, 99)
)
def test_probability_zero_is_never_drawn(weights, seed):
    p = [0, 0, 0, *(w / sum(weights) for w in weights)]
    drawn = finish(decode(Scripted.make({(): p}), [], Sample(seed=seed), n=20, max_tokens=1))
    assert all(p[branch.token] > 0 for branch in drawn)


@pytest.mark.parametrize("strategy", [Greedy(), Sample(seed=0), Beam(width=3)])
def test_one_start_and_one_step_a_token(strategy):
    model = Counting(Uniform(9))
    steps = list(decode(model, [5, 6], strategy, max_tokens=6))
    assert model.started == [[[5, 6]]]
    assert len(model.stepped) == len(steps) - 1


def test_rows_that_ended_leave_the_batch():
    model = Counting(Scripted.make({(): row(eos=0.5, a=0.5)}, row(eos=0.5, a=0.5)))
    steps = list(decode(model, [], Sample(seed=0), n=20, max_tokens=50))
    assert model.stepped == [len(step.live) for step in steps[:-1]]
    assert sum(len(step.ended) for step in steps) == 20
    assert model.stepped[-1] < 20


@pytest.mark.parametrize(("strategy", "n"), [(Greedy(), 1), (Sample(seed=4), 3), (Beam(width=3), 3)])
def test_every_step_shows_the_results_so_far(strategy, n):
    steps = list(decode(GARDEN, [], strategy, n=n, max_tokens=6))
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert all(0 < len(step.best) <= n for step in steps)
    assert all(branch.end is None for step in steps for branch in step.live)
    assert all(branch.end is not None for step in steps for branch in step.ended)
    assert all(branch.end is not None for branch in steps[-1].best)
    assert finish(iter(steps)) == list(steps[-1].best)


def test_a_stop_ends_a_branch_and_keeps_its_tokens():
    model = Scripted.make({(): row(a=1), (A,): row(b=1)}, row(c=1))
    for strategy in (Greedy(), Sample(seed=0), Beam(width=2)):
        [branch] = finish(decode(model, [], strategy, stop=StopIds([[A, B]])))
        assert (branch.ids(), branch.end) == ([A, B], "stop")


def test_eos_goes_before_a_stop_and_a_stop_before_the_length():
    model = Scripted.make({(): row(eos=1)})
    [branch] = finish(decode(model, [], Greedy(), max_tokens=1, stop=lambda branch: True))
    assert (branch.token, branch.end) == (EOS, "eos")
    [branch] = finish(decode(Uniform(5), [], Greedy(), max_tokens=1, stop=lambda branch: True))
    assert branch.end == "stop"


def test_an_empty_prompt_is_legal():
    assert texts(GARDEN, Greedy(), prompt=[], max_tokens=1) == [[A]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode(GARDEN, [], Greedy(), max_tokens=0), "max_tokens is 0, but must be an integer >= 1"),
        (lambda: decode(GARDEN, [], Sample(), n=0), "n is 0, but must be an integer >= 1"),
        (lambda: decode(GARDEN, [], Beam(width=2), n=3), "n is 3, but must be an integer <= the beam's width 2"),
        (lambda: decode(GARDEN, [7], Greedy()), "prompt id is 7, but must be an id of the vocabulary, 0 to 6"),
        (lambda: decode(GARDEN, [-1], Greedy()), "prompt id is -1"),
        (lambda: Beam(width=0), "width is 0"),
        (lambda: Beam(length_penalty=-1), "length_penalty is -1"),
        (lambda: Sample(seed=-1), "seed is -1"),
        (lambda: Sample(temperature=-1), "temperature is -1"),
    ],
)
def test_bad_settings_raise_at_once(call, message):
    with pytest.raises(SettingError, match=f"^{message}"):
        call()


def test_an_unknown_keyword_offers_the_closest():
    with pytest.raises(UnknownNameError, match="did you mean 'top_p'"):
        Sample(topp=0.9)
    with pytest.raises(UsageError, match=r"name it, as in temperature=0\.8"):
        Sample(0.8)


@pytest.mark.parametrize("strategy", [Greedy(), Sample(seed=0), Beam(width=2)])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_broken_model_is_named(strategy, value):
    class Broken(Uniform):
        def step(self, state, tokens_B):
            return torch.full((len(tokens_B), self.vocab_size), value), state

    with pytest.raises(LmlabError, match="the model gave NaN or no token at all"):
        finish(decode(Broken(200), [], strategy, max_tokens=5))


def test_the_rows_of_the_model_are_not_edited():
    kept = []

    class Watched(Uniform):
        def start(self, prompts):
            logp, state = super().start(prompts)
            kept.append((logp, logp.clone()))
            return logp, state

    finish(decode(Watched(9), [], Sample(temperature=0.5, top_k=3, seed=0), max_tokens=2))
    [(now, then)] = kept
    assert torch.equal(now, then)


@pytest.mark.parametrize("strategy", [Greedy(), Sample(seed=0), Beam(width=2)], ids=str)
def test_what_is_forbidden_is_not_written_unless_nothing_else_is_possible(strategy):
    model = Scripted.make({(): [0, 0.9, 0, 0, 0.1, 0], (4,): [0, 1, 0, 0, 0, 0]}, default=[0, 0, 0, 1, 0, 0])
    (branch,) = finish(decode(model, [], strategy, forbidden=[UNK]))
    assert branch.ids() == [4, UNK]
    assert branch.total == pytest.approx(math.log(0.1))  # the model's own
    assert finish(decode(model, [], Greedy()))[0].ids() == [UNK]
