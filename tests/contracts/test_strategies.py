"""Every strategy on every registered model: cached or not, alone or together, by whatever back end, drafted or not."""

import pytest

from lmlab.decoding import (
    MBR,
    Beam,
    BeamSample,
    Constrained,
    DiverseBeam,
    Exact,
    Greedy,
    Lookup,
    Sample,
    Speculative,
    StochasticBeam,
    decode,
    decode_all,
    finish,
    finish_all,
)
from lmlab.kernels import only
from lmlab.models.toy import Uniform
from lmlab.testing import sampling_matches_scorer

from .zoo import VOCAB, ZOO, build

STRATEGIES = [
    Greedy(),
    Sample("penalties,top_k=5", seed=1),
    Beam(width=3),
    BeamSample(width=3, seed=1),
    DiverseBeam(width=4, groups=2),
    StochasticBeam(width=3, seed=1),
    Constrained(must=[[6]], width=3),
    MBR(samples=4, seed=1),
    Exact(),
    Speculative(draft=Uniform(VOCAB), seed=1),
    Lookup(seed=1),
]
PROMPTS = [[4, 5, 4, 5], [], [7, 1]]
models = pytest.mark.parametrize("name", sorted(ZOO))


class Uncached:
    """A model that reads each text anew for every token, and has nothing but `start` and `step`."""

    def __init__(self, model):
        self._model, self.vocab_size, self.bos, self.eos = model, model.vocab_size, model.bos, model.eos

    def start(self, prompts):
        return self._model.start(prompts)[0], Texts([list(prompt) for prompt in prompts])

    def step(self, state, tokens_B):
        return self.start([[*text, token] for text, token in zip(state.texts, tokens_B.tolist(), strict=True)])


class Texts:
    def __init__(self, texts):
        self.texts = texts

    def select(self, rows_K):
        return Texts([self.texts[row] for row in rows_K.tolist()])


def model_of(name):
    return build(name, next(iter(ZOO[name])))


def shown(branches):
    return [(branch.ids(), branch.end, pytest.approx(branch.total, abs=1e-3)) for branch in branches]


@models
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_cached_is_uncached_and_together_is_alone(name, strategy):
    model = model_of(name)
    together = [shown(several) for several in finish_all(decode_all(model, PROMPTS, strategy, max_tokens=3))]
    for each in (model, Uncached(model)):
        assert [shown(finish(decode(each, prompt, strategy, max_tokens=3))) for prompt in PROMPTS] == together


@models
@pytest.mark.parametrize("chain", ["", "top_k=4,top_p=0.9,temperature=0.8", "penalties"])
def test_a_seed_gives_one_text_by_every_back_end_in_every_company(name, chain):
    model, found = model_of(name), []
    for compiled in (True, False):
        for each in (model, Uncached(model)):
            for rows in (1, 2, 5):
                with only(compiled):
                    found.append(finish(decode(each, [4, 5], Sample(chain, seed=3), n=rows, max_tokens=12))[0].ids())
    assert found == found[:1] * len(found)


@models
@pytest.mark.parametrize("strategy", [Speculative(draft=Uniform(VOCAB), lookahead=2, seed=5), Lookup(seed=5)])
def test_a_draft_leaves_the_distribution_of_every_model(name, strategy):
    sampling_matches_scorer(model_of(name), strategy)
