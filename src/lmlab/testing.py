"""The laws: what every language model must obey, shipped so that models of others can be held to them too.

    from lmlab.testing import check_laws
    check_laws(my_model)

A law takes a model and raises AssertionError with a telling message. `laws_for(model)` lists those that apply: what a
model does not declare (padded batches, storage, training, normalised rows) is not asked of it. The models are small: a
few tokens of vocabulary, on the CPU, in evaluation mode.

`check_honest` asks what a decoder needs of any predictor, a plain function: no model of ours, no protocol.

Shapes: B contexts, T positions, V the vocabulary, N ids.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmlab.config import described
from lmlab.decoding import (
    Beam,
    Branch,
    Constrained,
    DiverseBeam,
    Exact,
    Greedy,
    Lookup,
    Sample,
    Speculative,
    StochasticBeam,
    Strategy,
    decode,
    decode_all,
    finish,
    finish_all,
)
from lmlab.errors import LmlabError, UsageError
from lmlab.honest import check_honest
from lmlab.models.base import LanguageModel, State, Storable
from lmlab.models.neural.dropout import drawn_from
from lmlab.models.scorers import Padded, scorer_of
from lmlab.train_settings import TrainSettings
from lmlab.vocabulary import NEVER_PREDICTED, PAD, SPECIALS, UNK

__all__ = ["check_honest", "check_laws", "laws_for"]
Law = Callable[[LanguageModel], None]
_LENGTHS = (2, 0, 5, 1, 0, 3, 9)  # ragged, with empty prompts among them


def rows_sum_to_one(model: LanguageModel) -> None:
    """The probabilities of what follows a context sum to one."""
    for where, logp_BV in _first_rows(model).items():
        sums_B = logp_BV.double().exp().sum(-1)
        assert (sums_B - 1).abs().max() < 1e-4, f"{where}: the rows sum to {sums_B.tolist()}, not to one"


def never_predicts_pad_bos(model: LanguageModel) -> None:
    """`[PAD]` and `<bos>` have probability exactly 0, after every context."""
    for where, logp_BV in _first_rows(model).items():
        for token in NEVER_PREDICTED:
            shown = f"{where}: {SPECIALS[token]} is predicted"
            assert (logp_BV[:, token] == -math.inf).all(), f"{shown}, logp {logp_BV[:, token].tolist()}"


def batch_equals_single(model: LanguageModel) -> None:
    """A prompt gets the same row alone as among prompts of other lengths, empty ones included; so after a step."""
    prompts, tokens_B = _prompts(model), _tokens(model, len(_LENGTHS))
    first_BV, state = model.start(prompts)
    next_BV, _ = model.step(state, tokens_B)
    for row, prompt in enumerate(prompts):
        alone_1V, state_1 = model.start([prompt])
        _same(first_BV[row], alone_1V[0], f"start: row {row} (prompt {prompt}) differs from the same prompt alone")
        alone_1V, _ = model.step(state_1, tokens_B[row : row + 1])
        _same(next_BV[row], alone_1V[0], f"step: row {row} (prompt {prompt}) differs from the same prompt alone")


def step_equals_start(model: LanguageModel) -> None:
    """Reading a prompt and then tokens one by one equals reading them all as the prompt."""
    prompts = _prompts(model)
    _, state = model.start(prompts)
    for count in range(4):
        tokens_B = _tokens(model, len(prompts), seed=count)
        prompts = _grown(prompts, tokens_B)
        stepped_BV, state = model.step(state, tokens_B)
        _same(stepped_BV, model.start(prompts)[0], f"step {count + 1} differs from start on the same ids")


def state_is_a_value(model: LanguageModel) -> None:
    """Neither `step` nor `select` alters the state it is given, or any row handed out before."""
    prompts = _prompts(model)
    one_B, other_B = (_tokens(model, len(prompts), seed) for seed in (0, 1))
    handed, kept = [], []

    def keep(answer: tuple[Tensor, State]) -> State:
        handed.append(answer[0])
        kept.append(answer[0].clone())
        return answer[1]

    state = keep(model.start(prompts))
    after = keep(model.step(state, one_B))
    keep(model.step(after, other_B))
    model.step(state.select(torch.arange(len(prompts)).flip(0)), other_B)
    model.step(state, other_B)
    _same(model.step(state, one_B)[0], kept[1], "stepping twice from one state differs: step or select altered it")
    _same(model.step(after, other_B)[0], kept[2], "a state changed when the state it came from was stepped again")
    for now_BV, then_BV in zip(handed, kept, strict=True):
        _same(now_BV, then_BV, "rows handed out before were altered by a later step")


def select_repeats_and_reorders(model: LanguageModel) -> None:
    """`select` repeats, reorders and drops rows: each goes on as its own text does."""
    prompts = _prompts(model)
    tokens_B = _tokens(model, len(prompts))
    _, state = model.step(model.start(prompts)[1], tokens_B)
    prompts = _grown(prompts, tokens_B)
    for rows in ([2, 0, 0, 6, 1], [5], [3, 3, 3], [6, 5, 4, 3, 2, 1, 0]):
        next_B = _tokens(model, len(rows), seed=1)
        chosen = _grown([prompts[row] for row in rows], next_B)
        moved_BV, _ = model.step(state.select(torch.tensor(rows)), next_B)
        _same(moved_BV, model.start(chosen)[0], f"after select({rows}) the rows are not those of their texts")


def joined_rows_go_on(model: LanguageModel) -> None:
    """`joined` puts rows that have read texts of other lengths side by side: each goes on as its own text does."""
    prompts = _prompts(model)
    for cut in (1, 4):
        (_, one), (_, other) = model.start(prompts[:cut]), model.start(prompts[cut:])
        first_B, second_B = (_tokens(model, len(prompts), seed) for seed in (0, 1))
        _, state = model.step(one.joined(other), first_B)
        moved_BV, _ = model.step(state, second_B)
        expected_BV = model.start(_grown(_grown(prompts, first_B), second_B))[0]
        _same(moved_BV, expected_BV, f"after joining {cut} rows and {len(prompts) - cut} each is not that of its text")


def scorer_equals_stepwise(model: LanguageModel) -> None:
    """The model's scorer gives every token what `start` and `step` give it; one that adapts, in the first document."""
    texts = [[*prompt, model.eos] for prompt in _prompts(model, (9, 0, 3, 40, 3))]
    scorer = scorer_of(model)
    scores_N = _scored(model, texts)
    assert len(scores_N) == sum(map(len, texts)), f"{len(scores_N)} scores for {sum(map(len, texts))} tokens"
    for text in texts[:1] if scorer.adapts else texts:
        _same(scores_N[: len(text)], _stepwise(model, text), f"token_logp of {text} differs from step by step")
        scores_N = scores_N[len(text) :]


def padding_changes_nothing(model: LanguageModel) -> None:
    """A padded batch scores 0 at its padding, and more padding changes no score."""
    scorer = scorer_of(model)
    assert isinstance(scorer, Padded), "the model's scorer is not Padded"
    texts = [[*prompt, model.eos] for prompt in _prompts(model)]
    logp_BT, wider_BT = (scorer.logp(*_padded(texts, more)) for more in (0, 4))
    for row, text in enumerate(texts):
        assert not logp_BT[row, len(text) :].any(), f"row {row}: padding scores {logp_BT[row, len(text) :].tolist()}"
    assert not wider_BT[:, logp_BT.shape[1] :].any(), "padding scores other than 0"
    _same(wider_BT[:, : logp_BT.shape[1]], logp_BT, "more padding on the right changed scores")


def future_changes_nothing(model: LanguageModel) -> None:
    """No look-ahead: changing the later tokens of a text leaves the scores of the earlier ones as they were."""
    text, others = _prompts(model, (8, 8))
    for at in range(1, len(text)):
        before_N, after_N = (_scored(model, [others, ids]) for ids in (text, text[:at] + others[at:]))
        seen = len(others) + at
        message = f"token_logp looks ahead: tokens from position {at} on changed the scores before it"
        _same(after_N[:seen], before_N[:seen], message)


def beam_is_exhaustive(model: LanguageModel) -> None:
    """A beam as wide as all texts finds the best of them, under the total and under the mean per token."""
    depth = _depth(model, 3)
    prompt = _prompts(model, (3,))[0]
    totals = _all_texts(model, prompt, depth)
    n = min(5, len(totals))
    for penalty in (0.0, 1.0):
        beam = Beam(width=max(n, model.vocab_size**depth), length_penalty=penalty)
        found = finish(decode(model, prompt, beam, n=n, max_tokens=depth))
        best = sorted((total / len(ids) ** penalty for ids, total in totals.items()), reverse=True)[:n]
        _same(torch.tensor([beam.score(b) for b in found]), torch.tensor(best), "the beam missed the best texts")
        for branch in found:
            total = totals.get(_read(branch))
            assert total is not None, f"the beam found {_read(branch)}, which is no text of up to {depth} tokens"
            _same(torch.tensor(branch.total), torch.tensor(total), f"the beam's total for {_read(branch)} is wrong")
    assert len(set(map(_read, found))) == len(found), "the beam found one text twice"


def other_exhaustive_searches_agree(model: LanguageModel) -> None:
    """Best-first search finds what all texts, listed, have on top; a constrained beam the best that has its word."""
    depth, prompt = _depth(model, 2), _prompts(model, (3,))[0]
    totals = _all_texts(model, prompt, depth)
    best = sorted(totals.values(), reverse=True)[:3]
    found = finish(decode(model, prompt, Exact(), n=len(best), max_tokens=depth))
    _same(torch.tensor([b.total for b in found]), torch.tensor(best), "best-first search missed the best texts")
    word = next((ids[-1] for ids in totals if ids[-1] != model.eos), None)
    if word is None:
        return
    beam = Constrained(must=[[word]], width=2 * model.vocab_size**depth, length_penalty=0)
    (held,) = finish(decode(model, prompt, beam, max_tokens=depth))
    wanted = max(total for ids, total in totals.items() if word in ids)
    _same(torch.tensor(held.total), torch.tensor(wanted), f"the constrained beam missed the best text that has {word}")


def one_group_is_a_beam(model: LanguageModel) -> None:
    """A diverse beam of one group is a beam, and so are groups that do not shun one another, each by itself."""
    prompt = _prompts(model, (3,))[0]
    beam, one, apart = (
        torch.tensor([b.total for b in finish(decode(model, prompt, strategy, n=2, max_tokens=5))])
        for strategy in (Beam(width=2), DiverseBeam(width=2, groups=1), DiverseBeam(width=4, groups=2, diversity=0))
    )
    _same(one, beam, "a diverse beam of one group scores otherwise than a beam")
    _same(apart, beam[:1].expand(len(apart)), "groups that do not shun one another lead otherwise than a beam")


def stochastic_beam_draws_each_text_once(model: LanguageModel) -> None:
    """Drawn without replacement as many times as there are texts, each comes once, with its own probability."""
    depth, prompt = _depth(model, 2), _prompts(model, (3,))[0]
    totals = _all_texts(model, prompt, depth)
    drawn = finish(decode(model, prompt, StochasticBeam(width=len(totals), seed=3), n=len(totals), max_tokens=depth))
    assert sorted(map(_read, drawn)) == sorted(totals), f"{len(drawn)} texts were drawn of {len(totals)}"
    expected = torch.tensor([totals[_read(branch)] for branch in drawn])
    _same(torch.tensor([branch.total for branch in drawn]), expected, "a drawn text has another's log-probability")


def drafts_change_nothing(model: LanguageModel) -> None:
    """Whatever is drafted, the likeliest text is that of greedy choice."""
    prompt = _prompts(model, (5,))[0]
    (plain,) = finish(decode(model, prompt, Greedy(), max_tokens=12))
    for strategy in (Lookup(temperature=0), Speculative(draft=model, temperature=0)):
        (drafted,) = finish(decode(model, prompt, strategy, max_tokens=12))
        _same(
            torch.tensor(drafted.total), torch.tensor(plain.total), f"{_read(drafted)}, without drafts {_read(plain)}"
        )


def prompts_together_equal_alone(model: LanguageModel) -> None:
    """A prompt gets the same texts in a batch of ragged prompts as alone, by every kind of search."""
    prompts = _prompts(model, (4, 0, 2))
    for strategy in (Sample("penalties,top_p=0.9", seed=3), Beam("no_repeat_ngram=2", width=3)):
        together = finish_all(decode_all(model, prompts, strategy, n=2, max_tokens=6))
        for prompt, several in zip(prompts, together, strict=True):
            alone = finish(decode(model, prompt, strategy, n=2, max_tokens=6))
            here, there = (torch.tensor([branch.total for branch in branches]) for branches in (several, alone))
            _same(here, there, f"{strategy}: {prompt} goes on otherwise in a batch than alone")


def seeded_sampling_repeats(model: LanguageModel) -> None:
    """One seed gives one text, whatever else is drawn beside it."""
    prompt = _prompts(model, (3,))[0]
    texts = [[_read(b) for b in finish(decode(model, prompt, Sample(seed=7), n=n, max_tokens=12))] for n in (3, 3, 1)]
    assert texts[0] == texts[1], f"the same seed gave {texts[0]}, then {texts[1]}"
    assert texts[2][0] == texts[0][0], f"alone the first row is {texts[2][0]}, among three {texts[0][0]}"


def sampling_matches_scorer(model: LanguageModel, strategy: Strategy | None = None) -> None:
    """Drawn texts of up to two tokens come as often as the model says (chi-square, about five standard deviations)."""
    draws, prompt = 1000, _prompts(model, (3,))[0]
    depth = _depth(model, 2)
    texts = finish(decode(model, prompt, strategy or Sample(seed=5), n=draws, max_tokens=depth))
    drawn = Counter(map(_read, texts))
    expected = {ids: draws * math.exp(total) for ids, total in _all_texts(model, prompt, depth).items()}
    for ids in drawn:
        assert ids in expected, f"{ids} was drawn, but has probability 0"
    bins = _bins(drawn, expected)
    squares = [(seen - count) ** 2 / count for _, seen, count in bins]
    name, seen, count = bins[squares.index(max(squares))]
    freedom = max(len(bins) - 1, 1)
    message = f"worst is {name}: drawn {seen} times of {draws}, expected {count:.1f}"
    assert sum(squares) < freedom + 5 * math.sqrt(2 * freedom) + 10, f"sampling is not the scorer's: {message}"


def save_load_same(model: LanguageModel) -> None:
    """Saved and loaded, a model gives the same numbers."""
    assert isinstance(model, Storable), "the model declares no save and load"
    prompts = _prompts(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        loaded = type(model).load(Path(folder), model.settings, model.vocab_size)
        assert loaded.settings == model.settings, f"settings {model.settings} came back as {loaded.settings}"
        _same(loaded.start(prompts)[0], model.start(prompts)[0], "the loaded model gives other numbers", within=1e-7)


# -- models trained by gradient ---------------------------------------------------------------------------------------


def restarted_rows_begin_anew(model: Any) -> None:
    """Where training carries the state on, a row that begins a new document reads it as a fresh start does."""
    ids_BT = torch.tensor(_prompts(model, (9, 9, 9)))
    fresh_B = torch.tensor([True, False, True])
    with torch.no_grad():
        _, state = model.read(ids_BT[:, :4])
        mixed_BTH, _ = model.read(ids_BT[:, 4:], state, fresh_B)
        for rows_B, before, text in ((fresh_B, None, "new text"), (~fresh_B, state, "text that goes on")):
            expected_BTH, _ = model.read(ids_BT[:, 4:], before)
            _same(mixed_BTH[rows_B], expected_BTH[rows_B], f"beside restarted rows a {text} is read otherwise")


def training_depends_on_its_key_alone(model: Any) -> None:
    """In training, the same weights, state and key give the same step, whatever torch's own generator was used for."""
    (first, _), (second, _) = (_one_step(copy.deepcopy(model).train(), None, 0, seed) for seed in (1, 2))
    assert torch.equal(first, second), f"one key gave the losses {first.item()} and {second.item()}"


def training_resumes(model: Any) -> None:
    """A step from what a checkpoint holds (weights and carried state) is, bit for bit, that of a run never stopped."""
    running, state = copy.deepcopy(model).train(), None
    running.temperature = 1.0  # calibrated when training is done
    for number in range(2):
        _, state = _one_step(running, state, number)
    resumed = type(model)(model.settings, model.vocab_size).train()
    resumed.load_state_dict(running.state_dict())
    (uncut, _), (after, _) = (_one_step(each, state, 2) for each in (running, resumed))
    assert torch.equal(uncut, after), f"resumed, the loss is {after.item()}, not {uncut.item()}: some state is not kept"
    for (name, weight), again in zip(running.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, again), f"after a resumed step {name} differs"


def declares_what_training_knows(model: Any) -> None:
    """`training_defaults` are settings of training; each rung of `ladder` names the same settings of the model."""
    known = {field.name for field in described(TrainSettings)}
    unknown = sorted({*model.training_defaults} - known)
    assert not unknown, f"training_defaults names {', '.join(unknown)}, which training does not know"
    try:
        TrainSettings.make(model.training_defaults, "training_defaults")
        for rung in model.ladder:
            model.settings.make({**model.settings.dump(), **rung}, "ladder")
            assert {*rung} == {*model.ladder[0]}, f"the rungs {model.ladder[0]} and {rung} name other settings"
    except LmlabError as error:
        raise AssertionError(f"what the model declares is refused: {error}") from error


LAWS: tuple[Law, ...] = (
    rows_sum_to_one,
    never_predicts_pad_bos,
    batch_equals_single,
    step_equals_start,
    state_is_a_value,
    select_repeats_and_reorders,
    joined_rows_go_on,
    scorer_equals_stepwise,
    padding_changes_nothing,
    future_changes_nothing,
    beam_is_exhaustive,
    other_exhaustive_searches_agree,
    one_group_is_a_beam,
    stochastic_beam_draws_each_text_once,
    drafts_change_nothing,
    prompts_together_equal_alone,
    seeded_sampling_repeats,
    sampling_matches_scorer,
    save_load_same,
    restarted_rows_begin_anew,
    training_depends_on_its_key_alone,
    training_resumes,
    declares_what_training_knows,
)
_OF_TRAINING = frozenset(LAWS[LAWS.index(restarted_rows_begin_anew) :])


def laws_for(model: LanguageModel) -> tuple[Law, ...]:
    """The laws that apply to a model, by what it declares."""
    excused: set[Law] = set()
    scorer = scorer_of(model)
    if not scorer.normalised:
        excused |= {rows_sum_to_one, sampling_matches_scorer, other_exhaustive_searches_agree}
    if not isinstance(scorer, Padded):
        excused |= {padding_changes_nothing}
    if getattr(model, "family", None) != "neural":
        excused |= _OF_TRAINING
    if not isinstance(model, Storable):
        excused |= {save_load_same}
    return tuple(law for law in LAWS if law not in excused)


def check_laws(model: LanguageModel) -> None:
    """Hold a model to every law that applies to it.

    Raises:
        AssertionError: naming the law first broken, and how.
    """
    for law in laws_for(model):
        try:
            law(model)
        except (AssertionError, LmlabError) as error:
            raise AssertionError(f"{law.__name__}: {error}") from error


def _prompts(model: LanguageModel, lengths: Sequence[int] = _LENGTHS) -> list[list[int]]:
    """Random prompts of ordinary and unknown tokens, always the same."""
    rng = np.random.default_rng(0)
    return [rng.choice(_ordinary(model), size=length).tolist() for length in lengths]


def _first_rows(model: LanguageModel) -> dict[str, Tensor]:
    """The rows of `start` and of one `step` after it."""
    prompts = _prompts(model)
    first_BV, state = model.start(prompts)
    return {"start": first_BV, "step": model.step(state, _tokens(model, len(prompts)))[0]}


def _tokens(model: LanguageModel, rows: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed + 1).choice(_ordinary(model), size=rows))


def _ordinary(model: LanguageModel) -> list[int]:
    return [UNK, *range(len(SPECIALS), model.vocab_size)]


def _grown(prompts: Sequence[Sequence[int]], tokens_B: Tensor) -> list[list[int]]:
    return [[*prompt, token] for prompt, token in zip(prompts, tokens_B.tolist(), strict=True)]


def _same(got: Tensor, expected: Tensor, message: str, within: float = 1e-4) -> None:
    got, expected = got.double(), expected.double()
    assert got.shape == expected.shape, f"{message}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    gap = torch.where(got == expected, 0.0, (got - expected).abs())  # equal infinities have no gap
    assert (gap <= within).all(), f"{message}: off by up to {gap.max().item():.3g} nats"


def _stepwise(model: LanguageModel, ids: Sequence[int]) -> Tensor:
    """What each id scores after `<bos>` and the ids before it, one step at a time."""
    logp_1V, state = model.start([[]])
    scores = []
    for token in ids:
        scores.append(logp_1V[0, token])
        logp_1V, state = model.step(state, torch.tensor([token]))
    return torch.stack(scores).double()


def _scored(model: LanguageModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """What the model's scorer gives all tokens of these texts, which have no `<bos>`."""
    ids_N = np.array([token for text in texts for token in (model.bos, *text)])
    return torch.from_numpy(np.concatenate([*scorer_of(model).token_logp(ids_N)])).double()


def _one_step(network: Any, state: Any, number: int, seed: int = 0) -> tuple[Tensor, Any]:
    """The loss and the new state of one step of plain gradient descent, its dropout keyed by the step's number."""
    ids_BT = torch.from_numpy(np.random.default_rng(number).choice(_ordinary(network), size=(3, 7)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            with drawn_from(0, number):
                loss, state = network.loss(ids_BT[:, :-1], ids_BT[:, 1:], state)
        except UsageError as error:
            raise AssertionError(f"training refuses the model: {error}") from error
        network.zero_grad()
        loss.backward()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.grad is not None:
                weight -= 0.01 * weight.grad
    return loss.detach(), state.detach()


def _padded(texts: Sequence[Sequence[int]], more: int) -> tuple[Tensor, Tensor]:
    """ids_BT and mask_BT of texts padded on the right to the longest, and further."""
    width = max(map(len, texts)) + more
    ids_BT = torch.tensor([[*text, *[PAD] * (width - len(text))] for text in texts])
    mask_BT = torch.tensor([[at < len(text) for at in range(width)] for text in texts])
    return ids_BT, mask_BT


def _depth(model: LanguageModel, most: int) -> int:
    """How long texts can be, such that all of them can be listed."""
    return max(depth for depth in range(1, most + 1) if depth == 1 or model.vocab_size**depth <= 1000)


def _all_texts(model: LanguageModel, prompt: list[int], depth: int) -> dict[tuple[int, ...], float]:
    """Every possible text of up to `depth` tokens (shorter ones end in `<eos>`) with its total, from `start` alone."""
    continued = [token for token in range(model.vocab_size) if token not in (*NEVER_PREDICTED, model.eos)]
    totals: dict[tuple[int, ...], float] = {(): 0.0}
    texts: dict[tuple[int, ...], float] = {}
    for length in range(depth):
        if not totals:
            break
        logp_BV = model.start([[*prompt, *ids] for ids in totals])[0].double()
        grown: dict[tuple[int, ...], float] = {}
        for (ids, total), row in zip(totals.items(), logp_BV.tolist(), strict=True):
            grown |= {(*ids, token): total + row[token] for token in (*continued, model.eos)}
        grown = {ids: total for ids, total in grown.items() if total > -math.inf}
        texts |= {ids: total for ids, total in grown.items() if ids[-1] == model.eos or length == depth - 1}
        totals = {ids: total for ids, total in grown.items() if ids[-1] != model.eos}
    return texts


def _bins(
    drawn: Mapping[tuple[int, ...], int], expected: Mapping[tuple[int, ...], float]
) -> list[tuple[str, int, float]]:
    """Each text expected five times or more, and all others together: its name, how often drawn, how often expected."""
    frequent = [ids for ids, count in expected.items() if count >= 5]
    bins = [(str(ids), drawn.get(ids, 0), expected[ids]) for ids in frequent]
    others = sum(expected.values()) - sum(count for _, _, count in bins)
    if others >= 5:
        bins.append(("all others", sum(drawn.values()) - sum(seen for _, seen, _ in bins), others))
    return bins


def _read(branch: Branch) -> tuple[int, ...]:
    """All generated tokens, `<eos>` included."""
    return tuple(node.token for node in branch.path())
