"""Processors on distributions of a few tokens, worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlab.decoding import MinP, NoRepeatNgram, RepetitionPenalty, Temperature, TopK, TopP, Typical
from lmlab.errors import SettingError

NOTEBOOK = [0.1, 0.35, 0.05, 0.2, 0.3]


def run(processor, p, ids=((),), dtype=torch.float64):
    logp = torch.tensor([p], dtype=dtype).log()
    before = logp.clone()
    result = processor(ids, logp)
    assert torch.equal(logp, before), "the caller's tensor was edited"
    assert result.data_ptr() != logp.data_ptr()
    return pytest.approx(result[0].exp().tolist(), abs=1e-6)


def test_top_k_of_the_notebook():
    assert run(TopK(3), NOTEBOOK) == [0, 0.35 / 0.85, 0, 0.2 / 0.85, 0.3 / 0.85]
    assert [round(x, 3) for x in (0.35 / 0.85, 0.2 / 0.85, 0.3 / 0.85)] == [0.412, 0.235, 0.353]


def test_top_k_keeps_exactly_k_of_equals_lowest_id_first():
    assert run(TopK(2), [0.25, 0.25, 0.25, 0.25]) == [0.5, 0.5, 0, 0]
    assert run(TopK(2), [0.2, 0.2, 0.4, 0.2]) == [1 / 3, 0, 2 / 3, 0]


def test_top_k_beyond_the_vocabulary_keeps_all():
    assert run(TopK(99), NOTEBOOK) == NOTEBOOK


def test_top_p_as_published_adds_the_token_that_reaches_the_mass():
    assert run(TopP(0.9), NOTEBOOK) == [0.1 / 0.95, 0.35 / 0.95, 0, 0.2 / 0.95, 0.3 / 0.95]


def test_top_p_of_the_notebook_stays_below_the_mass():
    assert run(TopP(0.9, keep="below"), NOTEBOOK) == [0, 0.35 / 0.85, 0, 0.2 / 0.85, 0.3 / 0.85]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_p_reaches_a_mass_that_floats_miss_by_a_hair(dtype):
    assert run(TopP(0.9), [0.5, 0.4, 0.1], dtype=dtype) == [5 / 9, 4 / 9, 0]
    assert run(TopP(0.9, keep="below"), [0.5, 0.4, 0.1], dtype=dtype) == [1, 0, 0]


def test_a_nucleus_is_never_empty():
    assert run(TopP(1e-9), NOTEBOOK) == [0, 1, 0, 0, 0]
    assert run(TopP(0.1, keep="below"), NOTEBOOK) == [0, 1, 0, 0, 0]


def test_top_p_one_keeps_even_the_faintest_token():
    p = [1 - 1e-9, 1e-9]
    logp = torch.tensor([p], dtype=torch.float64).log()
    for keep in ("reach", "below"):
        assert TopP(1.0, keep=keep)([[]], logp)[0, 1].exp().item() == pytest.approx(1e-9)


def test_temperature_sharpens_and_flattens():
    assert run(Temperature(0.5), [0.8, 0.2]) == [0.64 / 0.68, 0.04 / 0.68]
    assert run(Temperature(2), [0.8, 0.2]) == [2 / 3, 1 / 3]
    assert run(Temperature(1e-320), [0.3, 0.7, 0.0]) == [0, 1, 0]


def test_temperature_zero_is_greedy_with_the_lowest_id_on_ties():
    assert run(Temperature(0), [0.2, 0.4, 0.4]) == [0, 1, 0]


def test_order_changes_the_result():
    def chain(*processors):
        logp = torch.tensor([NOTEBOOK]).log()
        for process in processors:
            logp = process([[]], logp)
        return (logp[0] > -math.inf).sum().item()

    assert chain(Temperature(0.25), TopP(0.9)) == 2
    assert chain(TopP(0.9), Temperature(0.25)) == 4


def test_min_p_scales_with_the_likeliest():
    assert run(MinP(0.5), [0.4, 0.2, 0.1, 0.3]) == [4 / 9, 2 / 9, 0, 3 / 9]
    assert run(MinP(1.0), [0.4, 0.4, 0.2]) == [0.5, 0.5, 0]
    assert run(MinP(0.0), NOTEBOOK) == NOTEBOOK


def test_typical_prefers_the_tokens_near_the_entropy_to_the_likeliest():
    # entropy 1.23 nats; surprisals 0.92, 1.20, 1.20, 2.30: the two at 1.20 are the most typical.
    assert run(Typical(0.5), [0.4, 0.3, 0.2999999, 0.0000001]) == [0, 0.5, 0.5, 0]
    assert run(Typical(1.0), NOTEBOOK) == NOTEBOOK


def test_repetition_penalty_divides_once_for_each_time():
    assert run(RepetitionPenalty(2), [0.5, 0.25, 0.25], ids=[[1, 1]]) == [8 / 13, 1 / 13, 4 / 13]
    assert run(RepetitionPenalty(1), [0.5, 0.25, 0.25], ids=[[1, 1]]) == [0.5, 0.25, 0.25]


def test_the_usual_repetition_penalty_halves_a_logit_above_the_mean_and_doubles_one_below():
    logits = torch.tensor([3.0, 1.0, -4.0, -math.inf])  # their mean is 0
    found = RepetitionPenalty(2, rule="logits")([[0, 2, 3]], logits[None].log_softmax(-1))
    assert found[0].tolist() == pytest.approx(torch.tensor([1.5, 1.0, -8.0, -math.inf]).log_softmax(-1).tolist())


@pytest.mark.parametrize("p", [0.974, 0.999999])
def test_a_repetition_penalty_stops_a_loop(p):
    """One token of that probability, 30 others share the rest. Twice its log-probability would leave it at p."""
    logp, written = torch.tensor([[p, *[(1 - p) / 30] * 30]]).log(), []
    for _ in range(40):
        written.append(int(RepetitionPenalty(2)([written], logp).argmax()))
    assert written.count(0) < 30
    assert len(set(written)) > 10
    assert run(RepetitionPenalty(2), [0.974, 0.026], ids=[[0]]) == [0.974 / 1.026, 0.052 / 1.026]


def test_no_repeat_ngram_forbids_what_followed_the_same_opening():
    assert run(NoRepeatNgram(2), [0.25] * 4, ids=[[1, 2, 1, 3, 1]]) == [0.5, 0.5, 0, 0]
    assert run(NoRepeatNgram(3), [0.25] * 4, ids=[[1, 2, 3, 0, 1, 2]]) == [1 / 3, 1 / 3, 1 / 3, 0]
    assert run(NoRepeatNgram(1), [0.25] * 4, ids=[[1, 3]]) == [0.5, 0, 0.5, 0]
    assert run(NoRepeatNgram(3), [0.25] * 4, ids=[[1]]) == [0.25] * 4


def test_no_repeat_ngram_lets_go_rather_than_leave_nothing():
    assert run(NoRepeatNgram(1), [0.5, 0.5, 0.0], ids=[[0, 1]]) == [0.5, 0.5, 0]


def test_rows_are_handled_apart():
    logp = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]]).log()
    assert TopK(1)([[], []], logp).exp().tolist() == [[1, 0, 0], [0, 0, 1]]
    assert NoRepeatNgram(1)([[0], [2]], logp).exp()[:, 1].tolist() == pytest.approx([2 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Temperature(-0.1), "temperature"),
        (lambda: Temperature(math.nan), "temperature"),
        (lambda: Temperature(math.inf), "temperature"),
        (lambda: TopK(0), "top_k"),
        (lambda: TopK(2.5), "top_k"),
        (lambda: TopP(0), "top_p"),
        (lambda: TopP(1.01), "top_p"),
        (lambda: TopP(0.9, keep="above"), "keep"),
        (lambda: MinP(-1), "min_p"),
        (lambda: Typical(0), "typical"),
        (lambda: RepetitionPenalty(0), "repetition_penalty"),
        (lambda: NoRepeatNgram(0), "no_repeat_ngram"),
    ],
)
def test_out_of_range_names_the_setting(make, name):
    with pytest.raises(SettingError, match=f"^{name} is "):
        make()


PROCESSORS = [Temperature(0), Temperature(0.3), TopK(2), TopP(0.5), TopP(0.5, keep="below"), MinP(0.3), Typical(0.4)]
PROCESSORS += [RepetitionPenalty(1.5), RepetitionPenalty(1.5, rule="logits"), NoRepeatNgram(1), NoRepeatNgram(2)]


@given(
    weights=st.lists(st.integers(0, 20), min_size=2, max_size=8).filter(any),
    ids=st.lists(st.integers(0, 1), max_size=6),
    processor=st.sampled_from(PROCESSORS),
)
def test_rows_stay_distributions_and_nothing_impossible_becomes_possible(weights, ids, processor):
    logp = torch.tensor([weights], dtype=torch.float64).log().log_softmax(-1)
    p = processor([ids], logp).exp()
    assert p.sum().item() == pytest.approx(1)
    assert not p[logp == -math.inf].any()
