"""Processors on distributions of a few tokens, worked out by hand."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.config import described
from lmlab.decoding import PROCESSORS, Branch, Rows, chain_of
from lmlab.decoding.chain import normal
from lmlab.decoding.chain import run as run_chain
from lmlab.decoding.processors import (
    adaptive_p,
    banned,
    dry,
    dynamic_temperature,
    epsilon,
    eta,
    forced,
    frequency_penalty,
    logit_bias,
    min_new_tokens,
    min_p,
    mirostat,
    mirostat_1,
    no_repeat_ngram,
    p_less,
    penalties,
    presence_penalty,
    quadratic,
    repetition_penalty,
    suppressed,
    tail_free,
    temperature,
    top_a,
    top_h,
    top_k,
    top_n_sigma,
    top_p,
    typical,
    watermark,
    xtc,
)
from lmlab.errors import LmlabError, SettingError

NOTEBOOK = [0.1, 0.35, 0.05, 0.2, 0.3]


def log(p, dtype=np.float64):
    with np.errstate(divide="ignore"):
        return np.log(np.array(p, dtype=dtype))


def run(processor, p, ids=((),), dtype=np.float64, **more):
    logp_1V = log([p], dtype)
    before = logp_1V.copy()
    result = processor(ids, logp_1V, **more)
    assert np.array_equal(logp_1V, before), "the caller's rows were edited"
    assert not np.shares_memory(result, logp_1V)
    return pytest.approx(np.exp(normal(result)[0]).tolist(), abs=1e-6)


def rows_of(*prompts):
    return Rows(prompts, [Branch.root(lane) for lane in range(len(prompts))], eos=0, seed=1)


def test_top_k_of_the_notebook():
    assert run(top_k(3), NOTEBOOK) == [0, 0.35 / 0.85, 0, 0.2 / 0.85, 0.3 / 0.85]
    assert [round(x, 3) for x in (0.35 / 0.85, 0.2 / 0.85, 0.3 / 0.85)] == [0.412, 0.235, 0.353]


def test_top_k_keeps_exactly_k_of_equals_lowest_id_first():
    assert run(top_k(2), [0.25, 0.25, 0.25, 0.25]) == [0.5, 0.5, 0, 0]
    assert run(top_k(2), [0.2, 0.2, 0.4, 0.2]) == [1 / 3, 0, 2 / 3, 0]


def test_top_k_beyond_the_vocabulary_keeps_all():
    assert run(top_k(99), NOTEBOOK) == NOTEBOOK


def test_top_p_as_published_adds_the_token_that_reaches_the_mass():
    assert run(top_p(0.9), NOTEBOOK) == [0.1 / 0.95, 0.35 / 0.95, 0, 0.2 / 0.95, 0.3 / 0.95]


def test_top_p_of_the_notebook_stays_below_the_mass():
    assert run(top_p(0.9, keep="below"), NOTEBOOK) == [0, 0.35 / 0.85, 0, 0.2 / 0.85, 0.3 / 0.85]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_p_reaches_a_mass_that_floats_miss_by_a_hair(dtype):
    assert run(top_p(0.9), [0.5, 0.4, 0.1], dtype=dtype) == [5 / 9, 4 / 9, 0]
    assert run(top_p(0.9, keep="below"), [0.5, 0.4, 0.1], dtype=dtype) == [1, 0, 0]


def test_a_nucleus_is_never_empty():
    assert run(top_p(1e-9), NOTEBOOK) == [0, 1, 0, 0, 0]
    assert run(top_p(0.1, keep="below"), NOTEBOOK) == [0, 1, 0, 0, 0]


def test_top_p_one_keeps_even_the_faintest_token():
    p = [1 - 1e-9, 1e-9]
    for keep in ("reach", "below"):
        assert np.exp(top_p(1.0, keep=keep)([[]], log([p])))[0, 1] == pytest.approx(1e-9)


def test_temperature_sharpens_and_flattens():
    assert run(temperature(0.5), [0.8, 0.2]) == [0.64 / 0.68, 0.04 / 0.68]
    assert run(temperature(2), [0.8, 0.2]) == [2 / 3, 1 / 3]
    assert run(temperature(1e-320), [0.3, 0.7, 0.0]) == [0, 1, 0]


def test_temperature_zero_is_greedy_with_the_lowest_id_on_ties():
    assert run(temperature(0), [0.2, 0.4, 0.4]) == [0, 1, 0]


def test_order_changes_the_result():
    def chain(*processors):
        logp = log([NOTEBOOK])
        for process in processors:
            logp = process([[]], logp)
        return (logp[0] > -math.inf).sum()

    assert chain(temperature(0.25), top_p(0.9)) == 2
    assert chain(top_p(0.9), temperature(0.25)) == 4


def test_min_p_scales_with_the_likeliest():
    assert run(min_p(0.5), [0.4, 0.2, 0.1, 0.3]) == [4 / 9, 2 / 9, 0, 3 / 9]
    assert run(min_p(1.0), [0.4, 0.4, 0.2]) == [0.5, 0.5, 0]
    assert run(min_p(0.0), NOTEBOOK) == NOTEBOOK


def test_typical_prefers_the_tokens_near_the_entropy_to_the_likeliest():
    # entropy 1.23 nats; surprisals 0.92, 1.20, 1.20, 2.30: the two at 1.20 are the most typical.
    assert run(typical(0.5), [0.4, 0.3, 0.2999999, 0.0000001]) == [0, 0.5, 0.5, 0]
    assert run(typical(1.0), NOTEBOOK) == NOTEBOOK


def test_repetition_penalty_divides_once_for_each_time():
    assert run(repetition_penalty(2), [0.5, 0.25, 0.25], ids=[[1, 1]]) == [8 / 13, 1 / 13, 4 / 13]
    assert run(repetition_penalty(1), [0.5, 0.25, 0.25], ids=[[1, 1]]) == [0.5, 0.25, 0.25]


def test_the_usual_repetition_penalty_halves_a_logit_above_the_mean_and_doubles_one_below():
    logits = np.array([[3.0, 1.0, -4.0, -math.inf]])  # their mean is 0
    found = repetition_penalty(2, rule="logits")([[0, 2, 3]], normal(logits))
    assert found[0].tolist() == pytest.approx([1.5, 1.0, -8.0, -math.inf])


@pytest.mark.parametrize("p", [0.974, 0.999999])
def test_a_repetition_penalty_stops_a_loop(p):
    """One token of that probability, 30 others share the rest. Twice its log-probability would leave it at p."""
    logp, written = log([[p, *[(1 - p) / 30] * 30]]), []
    for _ in range(40):
        written.append(int(repetition_penalty(2)([written], logp).argmax()))
    assert written.count(0) < 30
    assert len(set(written)) > 10
    assert run(repetition_penalty(2), [0.974, 0.026], ids=[[0]]) == [0.974 / 1.026, 0.052 / 1.026]


def test_no_repeat_ngram_forbids_what_followed_the_same_opening():
    assert run(no_repeat_ngram(2), [0.25] * 4, ids=[[1, 2, 1, 3, 1]]) == [0.5, 0.5, 0, 0]
    assert run(no_repeat_ngram(3), [0.25] * 4, ids=[[1, 2, 3, 0, 1, 2]]) == [1 / 3, 1 / 3, 1 / 3, 0]
    assert run(no_repeat_ngram(1), [0.25] * 4, ids=[[1, 3]]) == [0.5, 0, 0.5, 0]
    assert run(no_repeat_ngram(3), [0.25] * 4, ids=[[1]]) == [0.25] * 4


def test_no_repeat_ngram_lets_go_rather_than_leave_nothing():
    assert run(no_repeat_ngram(1), [0.5, 0.5, 0.0], ids=[[0, 1]]) == [0.5, 0.5, 0]


FOUR = [0.4, 0.3, 0.2, 0.1]  # entropy 1.27985 nats


def test_dynamic_temperature_follows_the_entropy_of_what_is_left():
    heat = 0.5 + (0.5004024 / math.log(2)) ** 2  # entropy 0.5004 of at most ln 2; from 0.5 to 1.5
    sharp = [0.8 ** (1 / heat), 0.2 ** (1 / heat)]
    assert run(dynamic_temperature(0.5, 1.5, exponent=2), [0.8, 0.2, 0]) == [p / sum(sharp) for p in sharp] + [0]
    assert run(dynamic_temperature(0.5, 1.5), [1, 0]) == [1, 0]


def test_quadratic_bends_the_distance_from_the_top():
    square = [1, math.exp(-0.3 * math.log(2) ** 2), math.exp(-0.3 * math.log(6) ** 2)]
    assert run(quadratic(0.3), [0.6, 0.3, 0.1]) == [p / sum(square) for p in square]
    cube = [1, math.exp(-0.3 * math.log(2) ** 3), math.exp(-0.3 * math.log(6) ** 3), 0]
    assert run(quadratic(0.3, curve=3), [0.6, 0.3, 0.1, 0]) == [p / sum(cube) for p in cube]


@pytest.mark.parametrize(
    ("processor", "kept"),
    [
        (epsilon(0.2), 3),
        (epsilon(0.9), 1),
        (eta(0.25), 3),  # 0.5 exp(-1.27985) = 0.139
        (eta(0.001), 4),  # 0.0316 * 0.278 = 0.0088 > 0.001
        (top_a(1), 3),  # 0.4 squared = 0.16
        (top_a(0.5), 4),
        (top_n_sigma(1), 2),  # logits -0.916 -1.204 -1.609 -2.303, sigma 0.5216
        (top_n_sigma(2), 3),
        (top_h(0.4), 1),  # terms 0.3665 0.3612 0.3219 0.2303; bound 0.512
        (top_h(0.6), 2),
        (top_h(1), 4),
        (p_less(), 2),  # the sum of squares 0.3 is reached by 0.3
        (mirostat(0.8), 1),  # mu 1.6 bits; 1.32 1.74 2.32 3.32
        (mirostat(1), 2),
        (mirostat(1.2), 3),
    ],
    ids=str,
)
def test_what_a_cut_keeps_of_four_tokens(processor, kept):
    left = FOUR[:kept]
    assert run(processor, FOUR) == [p / sum(left) for p in left] + [0] * (4 - kept)
    shuffled = [FOUR[2], FOUR[0], 0, FOUR[3], FOUR[1]]
    assert (np.isfinite(processor([[]], log([shuffled]))).sum()) == kept


def test_p_less_norm_takes_the_size_of_the_vocabulary():
    assert run(p_less("norm"), FOUR) == FOUR  # (4 * 0.3 - 1) / 3 = 0.067
    assert run(p_less("norm"), [*FOUR, 0]) == [4 / 9, 3 / 9, 2 / 9, 0, 0]  # (5 * 0.3 - 1) / 4 = 0.125


def test_tail_free_cuts_where_the_curve_is_straight():
    p = [0.5, 0.3, 0.1, 0.06, 0.04]  # slopes 0.2 0.2 0.04 0.02; bends 0 0.16 0.02, that is 0, 0.889, 0.111 of all
    assert run(tail_free(0.5), p) == [1, 0, 0, 0, 0]
    assert run(tail_free(0.95), p) == [5 / 8, 3 / 8, 0, 0, 0]
    assert run(tail_free(1), p) == p
    assert run(tail_free(0.5), [0.6, 0.4]) == [0.6, 0.4]


def test_xtc_leaves_the_least_likely_of_the_top_choices():
    assert run(xtc(1, 0.15), FOUR, ids=rows_of([])) == [0, 0, 2 / 3, 1 / 3]
    assert run(xtc(1, 0.35), FOUR, ids=rows_of([])) == FOUR
    assert run(xtc(0, 0.15), FOUR, ids=rows_of([])) == FOUR
    assert run(xtc(1, 0.15, exempt=(0,)), FOUR, ids=rows_of([])) == [4 / 7, 0, 2 / 7, 1 / 7]
    assert run(xtc(1, 0.2), [0.25] * 4, ids=rows_of([])) == [0, 0, 0, 1]


def test_xtc_cuts_as_often_as_it_is_told():
    rows = rows_of(*[[]] * 2000)
    cuts = xtc(0.3, 0.15)(rows, log([FOUR] * 2000))[:, 0] == -math.inf
    assert abs(cuts.mean() - 0.3) < 4 * math.sqrt(0.21 / 2000)


def test_mirostat_moves_its_bound_by_the_surprise():
    assert mirostat(1).remember(None, math.log(1 / 4), math.log(1 / 2)) == pytest.approx(1.9)  # 2 - 0.1 (2 - 1)
    assert mirostat(1, surprise="kept").remember(1.9, math.log(1 / 4), math.log(1 / 2)) == pytest.approx(1.9)
    assert run(mirostat(1), FOUR, memory_B=[1.4]) == [1, 0, 0, 0]


def test_mirostat_1_takes_k_from_the_slope():
    zipf = [1, 1 / 4, 1 / 9, 1 / 16, 1 / 25]  # slope 2, so epsilon 1: k = sqrt(2 ** 2 / (1 - 1 / 5)) = 2.24
    assert run(mirostat_1(1), [p / sum(zipf) for p in zipf]) == [0.8, 0.2, 0, 0, 0]
    assert run(mirostat_1(1), [0.25] * 4, memory_B=[-200]) == [1, 0, 0, 0]
    assert run(mirostat_1(9), [0.25] * 4) == [0.25] * 4  # a slope of 0


def test_adaptive_p_prefers_tokens_near_its_aim():
    aimed = [math.exp(5), math.exp(5 - 10 * (4 / 9) / (5 / 3)), 1]  # distances 0, 2/3 and 1
    assert run(adaptive_p(0.5), [0.5, 0.3, 0.2]) == [p / sum(aimed) for p in aimed]
    memory = adaptive_p(0.5).remember(None, math.log(0.2), 0.0)
    assert memory == pytest.approx((4.7, 10))  # an unlikely token raises the aim from 0.5 to 0.53
    aimed = [math.exp(5), math.exp(5 - 10 * 1 / 2)]
    assert run(adaptive_p(0.5), [0.53, 0.23, 0.24], memory_B=[memory]).expected[:2] == pytest.approx(
        [p / (sum(aimed) + math.exp(5 - 10 * (0.29 / 0.3) ** 2 / (1 + 0.29 / 0.3))) for p in aimed]
    )


def test_penalties_count_within_their_window():
    half, p = math.log(2), [0.5, 0.25, 0.25]
    assert run(frequency_penalty(half), p, ids=[[1, 1]]) == [8 / 13, 1 / 13, 4 / 13]
    assert run(presence_penalty(half), p, ids=[[1, 1]]) == [4 / 7, 1 / 7, 2 / 7]
    assert run(frequency_penalty(half, window=1), p, ids=[[1, 1]]) == [4 / 7, 1 / 7, 2 / 7]
    assert run(presence_penalty(half, over="generated"), p, ids=rows_of([1, 1])) == p
    assert run(repetition_penalty(2, window=1), p, ids=[[1, 2]]) == [4 / 7, 2 / 7, 1 / 7]
    assert run(repetition_penalty(2, rule="logp"), p, ids=[[1]]) == [8 / 13, 1 / 13, 4 / 13]
    assert run(penalties(2, half, half), p, ids=[[1, 1]]) == [64 / 97, 1 / 97, 32 / 97]


def test_dry_makes_long_repeats_dear():
    uniform = [0.25] * 4
    once, twice = math.exp(-0.8), math.exp(-0.8 * 1.75)
    assert run(dry(), uniform, ids=[[1, 2, 3, 0, 1, 2]]) == [1 / (3 + once)] * 3 + [once / (3 + once)]
    found = np.exp(normal(dry()([[1, 2, 3, 0, 1, 2, 3]], log([uniform]))))[0]
    assert found[0] == pytest.approx(twice / (3 + twice))
    assert run(dry(breakers=(2,)), uniform, ids=[[1, 2, 3, 0, 1, 2, 3]]) == uniform
    assert run(dry(), uniform, ids=[[1, 2, 3, 0, 2]]) == uniform
    assert np.isfinite(dry(base=99)([[1] * 500], log([uniform]))).all()


def test_tokens_by_name():
    assert run(logit_bias((1,), math.log(2)), [0.5, 0.25, 0.25]) == [0.4, 0.4, 0.2]
    assert run(suppressed((1, 2)), [0.5, 0.25, 0.25]) == [1, 0, 0]
    assert run(suppressed((0, 1, 2)), [0.5, 0.25, 0.25]) == [0.5, 0.25, 0.25]
    assert run(banned((1, 2)), FOUR, ids=[[3, 1]]) == [0.5, 0.375, 0, 0.125]
    assert run(banned((1, 2)), FOUR, ids=[[1, 3]]) == FOUR
    assert run(banned((2,)), FOUR) == [0.5, 0.375, 0, 0.125]
    assert run(forced((2, 1)), FOUR, ids=rows_of([3])) == [0, 0, 1, 0]
    assert run(forced((0,)), [0, 0.5, 0.5], ids=rows_of([])) == [0, 0.5, 0.5]
    assert run(min_new_tokens(1), FOUR, ids=rows_of([])) == [0, 0.5, 1 / 3, 1 / 6]


def test_a_watermark_raises_the_same_tokens_for_the_same_context():
    uniform = log([[1 / 8] * 8] * 2)
    first, second = np.exp(watermark(math.log(3), 0.5)([[5, 1], [6, 1]], uniform)) * 8
    assert sorted(first) == pytest.approx([1] * 4 + [3] * 4)
    assert first.tolist() == second.tolist()
    others = [np.exp(watermark(math.log(3), 0.5, key)([[1], [2]], uniform)) * 8 for key in (1, 2)]
    assert len({tuple(row.round(3)) for two in others for row in two}) > 1


def test_a_chain_as_text_is_the_chain_in_python():
    told = chain_of("penalties, top_k=40, temperature=0.8,top_p=0.95:keep=below,suppressed=5 6")
    assert told == (penalties(), top_k(40), temperature(0.8), top_p(0.95, keep="below"), suppressed((5, 6)))
    assert chain_of(top_k(3), "min_p", typical=0.5, top_p=None) == (top_k(3), min_p(), typical(0.5))
    assert chain_of("", " , ") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topk=3", "no processor is called 'topk': did you mean 'top_k'"),
        ("top_k=", "the chain has 'top_k='"),
        ("top_k=3:4", "the chain has 'top_k=3:4'"),
        ("top_k=0", "chain.top_k is 0, but must be an integer >= 1"),
        ("top_k=x", "chain.top_k is 'x'"),
        ("top_p=0.5:kept=below", "no setting of chain is called 'kept'"),
    ],
)
def test_a_chain_that_cannot_be_read_says_where(text, message):
    with pytest.raises(LmlabError, match=f"^{message}"):
        chain_of(text)


def test_every_processor_says_what_it_does():
    for name, kind in PROCESSORS.items():
        assert kind.__doc__, name
        assert kind() == chain_of(name)[0]
        assert repr(kind()).startswith(name)


def test_rows_are_handled_apart():
    logp = log([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    assert np.exp(normal(top_k(1)([[], []], logp))).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert np.exp(normal(no_repeat_ngram(1)([[0], [2]], logp)))[:, 1].tolist() == pytest.approx([2 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: temperature(-0.1), "temperature"),
        (lambda: temperature(math.nan), "temperature"),
        (lambda: temperature(math.inf), "temperature"),
        (lambda: top_k(0), "top_k"),
        (lambda: top_k(2.5), "top_k"),
        (lambda: top_p(0), "top_p"),
        (lambda: top_p(1.01), "top_p"),
        (lambda: top_p(0.9, keep="above"), "keep"),
        (lambda: min_p(-1), "min_p"),
        (lambda: typical(0), "typical"),
        (lambda: repetition_penalty(0), "repetition_penalty"),
        (lambda: no_repeat_ngram(0), "no_repeat_ngram"),
    ],
)
def test_out_of_range_names_the_setting(make, name):
    with pytest.raises(SettingError, match=f"^{name} is "):
        make()


SOME = [temperature(0), temperature(0.3), top_k(2), top_p(0.5), top_p(0.5, keep="below"), min_p(0.3), typical(0.4)]
SOME += [repetition_penalty(1.5), repetition_penalty(1.5, rule="logits"), no_repeat_ngram(1), no_repeat_ngram(2)]
SOME += [kind() for kind in PROCESSORS.values()]
SOME += [top_h(0.01), epsilon(0.9), eta(0.9), top_a(1), min_p(1), xtc(1, 0.01), quadratic(3, 3), top_n_sigma(0.1)]
SOME += [mirostat(0.01), mirostat_1(0.01), tail_free(0.01), suppressed((0, 1, 2, 99)), banned((1,)), forced((1,))]


@given(
    weights=st.lists(st.integers(0, 20), min_size=2, max_size=8).filter(any),
    ids=st.lists(st.integers(0, 1), max_size=6),
    processor=st.sampled_from(SOME),
)
def test_no_row_is_left_empty_and_nothing_impossible_becomes_possible(weights, ids, processor):
    logp = normal(log([weights, weights[::-1]]))
    both = processor(rows_of(ids, ids[::-1]), logp)
    assert not np.isnan(both).any()
    assert np.isfinite(both.max(-1)).all()
    assert np.exp(normal(both)).sum(-1) == pytest.approx([1, 1])
    assert not np.exp(both)[logp == -math.inf].any()
    alone = processor(rows_of(ids), logp[:1])
    assert normal(alone)[0] == pytest.approx(normal(both)[0]), "beside another row it does otherwise"


def ends(field):
    """All choices of a setting, or its least and its largest value, as far as a number holds them."""
    if field.choices:
        return field.choices
    given, whole = field.bounds, field.type is int
    least = given.get("ge", math.nextafter(given["gt"], math.inf) if "gt" in given else -1e308)
    most = given.get("le", math.nextafter(given.get("lt", math.inf), 0))
    return {field.default, int(least) if whole else least, 2**31 if whole and most > 2**31 else most}


def at_their_ends():
    """Each processor with every combination of the ends of its numbers and its choices."""
    for kind in PROCESSORS.values():
        fields = [field for field in described(kind) if field.type in (int, float) or field.choices]
        for values in product(*map(ends, fields)):
            yield kind(**dict(zip((field.name for field in fields), values, strict=True)))


@pytest.mark.parametrize("processor", [*at_their_ends()], ids=repr)
@pytest.mark.parametrize(
    "p", [[0.25] * 4, [1 - 3e-300, 1e-300, 1e-300, 1e-300], [0.6, 0.4, 0, 0], [1, 0, 0, 0]], ids=str
)
def test_a_setting_at_an_end_of_its_bound_leaves_a_row_to_draw_from(processor, p):
    rows = Rows([[0, 1, 1]], [Branch.root()], 3)
    ((_, _, made_BV),) = run_chain((processor,), rows, log(p)[None])
    assert np.isfinite(made_BV.max())
    assert not np.isnan(made_BV).any()
    assert np.exp(normal(made_BV)).sum() == pytest.approx(1)


def test_a_strength_near_the_end_of_floats_leaves_the_likeliest():
    rows, logp_BV = Rows([[]], [Branch.root()], 3), log([0.5, 0.3, 0.2])[None]
    ((_, _, bent_BV),) = run_chain(chain_of("quadratic=1e307"), rows, logp_BV)
    assert np.exp(normal(bent_BV))[0].tolist() == [1, 0, 0]
