"""Each law catches the fault it is there for: one honest model, and the same model with one thing wrong."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from lmlab import testing
from lmlab.config import Settings, setting
from lmlab.models.neural.base import NeuralModel, NeuralSettings, TensorState
from lmlab.models.neural.dropout import Dropout
from lmlab.models.scorers import Arrays, Blend, Padded, Stepwise, Stream
from lmlab.models.toy import Uniform
from lmlab.vocabulary import BOS, EOS, NEVER_PREDICTED, PAD

V, H = 8, 6


@dataclass(frozen=True)
class Memory:
    h_BH: torch.Tensor

    def select(self, rows_K):
        return Memory(self.h_BH[rows_K])

    def joined(self, other):
        return Memory(torch.cat([self.h_BH, other.h_BH]))


class Honest:
    """A recurrent network of a few random numbers, that scores padded batches."""

    def __init__(self, settings=None, seed=0):
        self.settings, self.vocab_size, self.bos, self.eos = settings or Settings(), V, BOS, EOS
        g = torch.Generator().manual_seed(seed)
        self.enter_VH = torch.randn(V, H, generator=g)
        self.turn_HH = torch.randn(H, H, generator=g)
        self.leave_HV = torch.randn(H, V, generator=g)

    def advance(self, h_BH, tokens_B):
        return torch.tanh(h_BH @ self.turn_HH + self.enter_VH[tokens_B])

    def rows(self, h_BH):
        logits_BV = h_BH @ self.leave_HV
        logits_BV[:, NEVER_PREDICTED] = -math.inf
        return logits_BV.log_softmax(-1)

    def read(self, prompt):
        h_1H = torch.zeros(1, H)
        for token in (BOS, *prompt):
            h_1H = self.advance(h_1H, torch.tensor([token]))
        return h_1H

    def start(self, prompts):
        state = Memory(torch.cat([self.read(prompt) for prompt in prompts]))
        return self.rows(state.h_BH), state

    def step(self, state, tokens_B):
        state = Memory(self.advance(state.h_BH, tokens_B))
        return self.rows(state.h_BH), state

    def logp(self, ids_BT, mask_BT):
        h_BH, columns = self.read([]).repeat(len(ids_BT), 1), []
        for ids_B in ids_BT.T:
            columns.append(self.rows(h_BH)[torch.arange(len(ids_B)), ids_B])
            h_BH = self.advance(h_BH, ids_B)
        return torch.stack(columns, 1).masked_fill(~mask_BT, 0)

    def logp_array(self, ids_N):
        scores = []
        for document in np.split(ids_N, np.flatnonzero(ids_N == BOS))[1:]:
            ids_BT = torch.from_numpy(document[1:].astype(np.int64))[None]
            scores += [0.0, *self.logp(ids_BT, torch.ones_like(ids_BT, dtype=torch.bool))[0].tolist()]
        return np.array(scores)

    def logp_stream(self, documents):
        for ids_N in documents:
            yield self.logp_array(ids_N)[1:]

    def scorer(self):
        return Padded(self.logp)

    def save(self, folder):
        torch.save(self.leave_HV, folder / "leave.pt")

    @classmethod
    def load(cls, folder, settings, vocab_size):
        model = cls(settings)
        model.leave_HV = torch.load(folder / "leave.pt", weights_only=True)
        return model

    def check(self):
        assert self.leave_HV.isfinite().all()


class RowsSumToMore(Honest):
    def rows(self, h_BH):
        return super().rows(h_BH) + 0.01


class PredictsPadding(Honest):
    def rows(self, h_BH):
        logits_BV = h_BH @ self.leave_HV
        logits_BV[:, BOS] = -math.inf
        return logits_BV.log_softmax(-1)


class PadsPrompts(Honest):
    def start(self, prompts):
        longest = max(map(len, prompts))
        return super().start([[*[PAD] * (longest - len(prompt)), *prompt] for prompt in prompts])


class StepsWithoutTheBefore(Honest):
    def step(self, state, tokens_B):
        return super().step(Memory(torch.zeros_like(state.h_BH)), tokens_B)


class EditsItsState(Honest):
    def step(self, state, tokens_B):
        state.h_BH.copy_(self.advance(state.h_BH, tokens_B))
        return self.rows(state.h_BH), state


class SharesItsMemory(Honest):
    """Hands out a fresh state that is only a view of the old one's memory."""

    def step(self, state, tokens_B):
        grown = Memory(state.h_BH.view_as(state.h_BH))
        grown.h_BH.copy_(self.advance(state.h_BH, tokens_B))
        return self.rows(grown.h_BH), grown


class ReusesItsRows(Honest):
    """Answers in one buffer, again and again."""

    def rows(self, h_BH):
        fresh_BV = super().rows(h_BH)
        self.buffers = getattr(self, "buffers", {})
        return self.buffers.setdefault(len(fresh_BV), fresh_BV).copy_(fresh_BV)


class Stuck(Memory):
    def select(self, rows_K):
        return Stuck(self.h_BH[: len(rows_K)].repeat(len(rows_K), 1)[: len(rows_K)])


class ForgetsToReorder(Honest):
    def start(self, prompts):
        logp_BV, state = super().start(prompts)
        return logp_BV, Stuck(state.h_BH)

    def step(self, state, tokens_B):
        logp_BV, grown = super().step(state, tokens_B)
        return logp_BV, Stuck(grown.h_BH)


class Swapped(Memory):
    def joined(self, other):
        return Swapped(torch.cat([other.h_BH, self.h_BH]))


class JoinsInTheWrongOrder(Honest):
    def start(self, prompts):
        logp_BV, state = super().start(prompts)
        return logp_BV, Swapped(state.h_BH)


class PaddingLeaks(Honest):
    def logp(self, ids_BT, mask_BT):
        leak_B1 = 0.1 * (ids_BT == PAD).sum(1, keepdim=True)
        return (super().logp(ids_BT, mask_BT) + leak_B1).masked_fill(~mask_BT, 0)


class ScoresPadding(Honest):
    def logp(self, ids_BT, mask_BT):
        return super().logp(ids_BT, torch.ones_like(mask_BT)).clamp(min=-50)


class LooksAhead(Honest):
    def logp(self, ids_BT, mask_BT):
        ahead_BT = torch.nn.functional.pad(ids_BT[:, 1:], (0, 1))
        return (super().logp(ids_BT, mask_BT) - 0.01 * ahead_BT).masked_fill(~mask_BT, 0)


class ByArrays(Honest):
    def scorer(self):
        return Arrays(self.logp_array)


class ByStream(Honest):
    def scorer(self):
        return Stream(self.logp_stream)


class ByBlend(Honest):
    def scorer(self):
        return Blend([Honest()], self.blend)

    def blend(self, documents, logp):
        for (logp_N,) in logp:
            yield logp_N


class LooksAheadInArrays(ByArrays):
    def logp_array(self, ids_N):
        return super().logp_array(ids_N) - 0.01 * np.append(ids_N[1:], 0) * (ids_N != BOS)


class RunsDocumentsTogether(ByArrays):
    def logp_array(self, ids_N):
        whole = np.array([BOS, *ids_N[ids_N != BOS]])
        scores = np.zeros(len(ids_N))
        scores[ids_N != BOS] = super().logp_array(whole)[1:]
        return scores


class LeavesTheEndOut(ByArrays):
    def logp_stream(self, documents):
        yield from (logp_N[:-1] for logp_N in super().logp_stream(documents))

    def scorer(self):
        return Stream(self.logp_stream)


class ScoresAfterLearning(ByStream):
    def logp_stream(self, documents):
        for logp_N in super().logp_stream(documents):
            yield logp_N + 0.01


class LearnsFromTheLastDocumentFirst(ByStream):
    def logp_stream(self, documents):
        documents = list(documents)
        yield from (logp_N - 0.01 * documents[-1][-2] for logp_N in super().logp_stream(documents))


class BlendsTooMuch(ByBlend):
    def blend(self, documents, logp):
        yield from (logp_N - 0.01 for logp_N in super().blend(documents, logp))


class BlendsWhatFollows(ByBlend):
    def blend(self, documents, logp):
        yield from (logp_N + 0.01 * np.append(logp_N[1:], 0) for logp_N in super().blend(documents, logp))


@dataclass(frozen=True)
class NetworkSettings(NeuralSettings):
    hidden: int = setting(5, "features", ge=1)


class HonestNetwork(NeuralModel):
    """A recurrent network with dropout, trained by gradient."""

    Settings = NetworkSettings
    training_defaults: ClassVar = {"lr": 1e-2, "batch_size": 4}
    ladder: ClassVar = ({"hidden": 5}, {"hidden": 9})
    begins_at = 0.0

    def __init__(self, settings=None, vocab_size=V):
        settings = settings or NetworkSettings()
        super().__init__(settings, vocab_size, settings.hidden)
        self.embedding = torch.nn.Embedding(vocab_size, settings.hidden)
        self.turn = torch.nn.Linear(settings.hidden, settings.hidden)
        self.dropout = Dropout(0.5)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for weight in self.parameters():
                weight.normal_()
        self.eval()

    def initial_state(self, rows, device):
        return TensorState((torch.full((rows, self.settings.hidden), self.begins_at, device=device),))

    def features(self, ids_BT, state):
        (h_BH,) = state.tensors
        columns = []
        for ids_B in ids_BT.T:
            h_BH = torch.tanh(self.turn(h_BH) + self.embedding(ids_B))
            columns.append(h_BH)
        return self.dropout(torch.stack(columns, 1)), TensorState((h_BH,))


class BeginsAtOne(HonestNetwork):
    begins_at = 1.0


class RestartsAtZero(BeginsAtOne):
    def restart(self, state, rows_B):
        return state.clear(rows_B, TensorState((torch.zeros_like(state.tensors[0]),)))


class DrawsByNumPy(HonestNetwork):
    """Draws from a generator that no key governs."""

    noise = np.random.default_rng(0)

    def features(self, ids_BT, state):
        features_BTH, state = super().features(ids_BT, state)
        return features_BTH * (self.noise.random() if self.training else 1), state


class DropsByTorch(HonestNetwork):
    def __init__(self, *args):
        super().__init__(*args)
        self.dropout = torch.nn.Dropout(0.5)


class CountsItsSteps(HonestNetwork):
    """Keeps something that no checkpoint holds."""

    steps = 0

    def features(self, ids_BT, state):
        self.steps += self.training
        features_BTH, state = super().features(ids_BT, state)
        return features_BTH / (1 + self.steps), state


class NamesNoSettings(HonestNetwork):
    training_defaults: ClassVar = {"learning_rate": 1e-2}


class ClimbsNowhere(HonestNetwork):
    ladder: ClassVar = ({"width": 5},)


class ClimbsSideways(HonestNetwork):
    ladder: ClassVar = ({"hidden": 5}, {"softmax": "adaptive"})


class NeverTheSame(Honest):
    """Left in training mode: dropout at work."""

    def __init__(self, settings=None):
        super().__init__(settings)
        self.noise = torch.Generator().manual_seed(0)

    def rows(self, h_BH):
        return super().rows(h_BH + torch.randn(H, generator=self.noise))


class ReadsOneRowOnly(Honest):
    def step(self, state, tokens_B):
        return super().step(state, tokens_B[:1].repeat(len(tokens_B)))


class LosesItsWeights(Honest):
    @classmethod
    def load(cls, folder, settings, vocab_size):
        return cls(settings, seed=1)


FAULTS = [
    (RowsSumToMore, "rows_sum_to_one", "the rows sum to"),
    (PredictsPadding, "never_predicts_pad_bos", r"\[PAD\] is predicted"),
    (PadsPrompts, "batch_equals_single", "differs from the same prompt alone"),
    (ReadsOneRowOnly, "batch_equals_single", "step: row"),
    (StepsWithoutTheBefore, "step_equals_start", "step 1 differs from start"),
    (EditsItsState, "state_is_a_value", "altered it"),
    (SharesItsMemory, "state_is_a_value", "altered it"),
    (ReusesItsRows, "state_is_a_value", "rows handed out before"),
    (ForgetsToReorder, "select_repeats_and_reorders", r"after select\(\[2, 0, 0, 6, 1\]\)"),
    (PaddingLeaks, "scorer_equals_stepwise", "differs from step by step"),
    (JoinsInTheWrongOrder, "joined_rows_go_on", "after joining 1 rows and 6"),
    (PaddingLeaks, "padding_changes_nothing", "more padding"),
    (ScoresPadding, "padding_changes_nothing", "padding scores"),
    (LooksAhead, "scorer_equals_stepwise", "differs from step by step"),
    (LooksAhead, "future_changes_nothing", "token_logp looks ahead: tokens from position 1 on"),
    (LooksAheadInArrays, "future_changes_nothing", "token_logp looks ahead"),
    (RunsDocumentsTogether, "scorer_equals_stepwise", "token_logp of .* differs"),
    (LeavesTheEndOut, "scorer_equals_stepwise", "scores for 60 tokens"),
    (ScoresAfterLearning, "scorer_equals_stepwise", "token_logp of .* differs"),
    (LearnsFromTheLastDocumentFirst, "future_changes_nothing", "token_logp looks ahead"),
    (BlendsTooMuch, "scorer_equals_stepwise", "token_logp of .* differs"),
    (BlendsWhatFollows, "future_changes_nothing", "token_logp looks ahead"),
    (ForgetsToReorder, "beam_is_exhaustive", "the beam"),
    (StepsWithoutTheBefore, "other_exhaustive_searches_agree", "the constrained beam missed the best text that has"),
    (NeverTheSame, "one_group_is_a_beam", "a diverse beam of one group"),
    (ReadsOneRowOnly, "stochastic_beam_draws_each_text_once", "a drawn text has another's log-probability"),
    (NeverTheSame, "drafts_change_nothing", "without drafts"),
    (PadsPrompts, "prompts_together_equal_alone", "goes on otherwise in a batch than alone"),
    (NeverTheSame, "seeded_sampling_repeats", "the same seed gave"),
    (ReadsOneRowOnly, "sampling_matches_scorer", "sampling is not the scorer's: worst is"),
    (LosesItsWeights, "save_load_same", "the loaded model gives other numbers"),
    (RestartsAtZero, "restarted_rows_begin_anew", "beside restarted rows a new text is read otherwise"),
    (DropsByTorch, "training_depends_on_its_key_alone", "use lmlab.models.neural.dropout.Dropout"),
    (DrawsByNumPy, "training_depends_on_its_key_alone", "one key gave the losses"),
    (CountsItsSteps, "training_resumes", "some state is not kept"),
    (NamesNoSettings, "declares_what_training_knows", "learning_rate, which training does not know"),
    (ClimbsNowhere, "declares_what_training_knows", "no setting of ladder is called 'width'"),
    (ClimbsSideways, "declares_what_training_knows", "name other settings"),
]


@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
def test_the_honest_model_obeys(law):
    model = Honest() if law in testing.laws_for(Honest()) else HonestNetwork()
    assert law in testing.laws_for(model)
    law(model)


@pytest.mark.parametrize("way", [ByArrays, ByStream, ByBlend, HonestNetwork, BeginsAtOne])
def test_the_honest_model_obeys_however_it_scores_or_begins(way):
    testing.check_laws(way())


@pytest.mark.parametrize(("fault", "law", "message"), FAULTS)
def test_a_fault_is_caught_by_the_right_law(fault, law, message):
    with pytest.raises(AssertionError, match=message):
        getattr(testing, law)(fault())


def test_every_law_has_a_fault_that_it_catches():
    assert {law for _, law, _ in FAULTS} == {law.__name__ for law in testing.LAWS}


@pytest.mark.parametrize("fault", sorted({fault for fault, _, _ in FAULTS}, key=lambda fault: fault.__name__))
def test_check_laws_names_the_law_that_was_broken(fault):
    expected = "|".join(law.__name__ for law in testing.LAWS)
    with pytest.raises(AssertionError, match=f"^({expected}): "):
        testing.check_laws(fault())


def test_what_a_model_does_not_declare_is_not_asked_of_it():
    class Bare:
        vocab_size, bos, eos = V, BOS, EOS

        def start(self, prompts):
            return Uniform(V).start(prompts)

        def step(self, state, tokens_B):
            return Uniform(V).step(state, tokens_B)

    class Backoff(Bare):
        def scorer(self):
            return Stepwise(self, normalised=False)

    bare, backoff = ({law.__name__ for law in testing.laws_for(model)} for model in (Bare(), Backoff()))
    of_training = {law.__name__ for law in testing._OF_TRAINING}
    assert {law.__name__ for law in testing.LAWS} - bare == {"padding_changes_nothing", "save_load_same", *of_training}
    of_rows_that_sum_to_one = {"rows_sum_to_one", "sampling_matches_scorer", "other_exhaustive_searches_agree"}
    assert bare - backoff == of_rows_that_sum_to_one
    testing.check_laws(Bare())


def test_laws_reach_larger_vocabularies_in_reasonable_time():
    testing.check_laws(Uniform(500))
