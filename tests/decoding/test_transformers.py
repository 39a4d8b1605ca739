"""Where definitions agree, transformers' own numbers: its processors on random rows, its searches on a random GPT-2."""

import warnings

import numpy as np
import pytest
import torch

from lmlab.decoding import Beam, Branch, Greedy, Rows, decode_all, finish_all
from lmlab.decoding import processors as ours
from lmlab.decoding.chain import normal
from lmlab.models.toy import Contexts
from lmlab.vocabulary import BOS, EOS, PAD

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (the extra hf)")
    theirs = pytest.importorskip("transformers.generation.logits_process")

V = 23
PROMPTS = [[5, 6, 7, 5, 6], [9], [11, 12, 11]]

PAIRS = [
    (ours.temperature(0.7), lambda: theirs.TemperatureLogitsWarper(0.7)),
    (ours.top_k(5), lambda: theirs.TopKLogitsWarper(5)),
    (ours.top_p(0.8), lambda: theirs.TopPLogitsWarper(0.8)),
    (ours.min_p(0.1), lambda: theirs.MinPLogitsWarper(0.1)),
    (ours.typical(0.6), lambda: theirs.TypicalLogitsWarper(0.6)),
    (ours.epsilon(0.05), lambda: theirs.EpsilonLogitsWarper(0.05)),
    (ours.eta(0.05), lambda: theirs.EtaLogitsWarper(0.05)),
    (ours.top_h(0.5), lambda: theirs.TopHLogitsWarper(0.5)),
    (ours.repetition_penalty(1.3, rule="logp"), lambda: theirs.RepetitionPenaltyLogitsProcessor(1.3)),
    (ours.no_repeat_ngram(2), lambda: theirs.NoRepeatNGramLogitsProcessor(2)),
    (ours.suppressed((7, 8)), lambda: theirs.SuppressTokensLogitsProcessor([7, 8])),
    (ours.banned((6, 9)), lambda: theirs.NoBadWordsLogitsProcessor([[6, 9]], eos_token_id=EOS)),
    (ours.logit_bias((7, 8), -1.5), lambda: theirs.SequenceBiasLogitsProcessor([[[7], -1.5], [[8], -1.5]])),
    (ours.min_new_tokens(2), lambda: theirs.MinNewTokensLengthLogitsProcessor(5, 2, EOS, device="cpu")),
]


@pytest.mark.parametrize(("mine", "make"), PAIRS, ids=[str(mine) for mine, _ in PAIRS])
@pytest.mark.parametrize("seed", range(5))
def test_processors_agree(mine, make, seed):
    logp_BV = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, V)) * 2).log_softmax(-1)
    ids = [[5, 6, 7, 5, 6], [7, 8, 7, 8, 6]]
    rows = Rows(ids, [Branch.root(), Branch.root(1)], EOS)
    expected = make()(torch.tensor(ids), logp_BV).numpy()
    assert normal(mine(rows, logp_BV.numpy())) == pytest.approx(normal(expected))


class Wrapped:
    """A GPT-2 behind the protocol, without a cache."""

    vocab_size, bos, eos = V, BOS, EOS

    def __init__(self, network):
        self.network = network

    def start(self, prompts):
        return self._rows(state := Contexts(tuple(map(tuple, prompts)))), state

    def step(self, state, tokens_B):
        state = Contexts(tuple((*ids, token) for ids, token in zip(state.ids, tokens_B.tolist(), strict=True)))
        return self._rows(state), state

    def _rows(self, state):
        rows = [self.network(torch.tensor([[BOS, *ids]])).logits[0, -1].log_softmax(-1) for ids in state.ids]
        return torch.stack(rows)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=1.0,
    )
    return transformers.GPT2LMHeadModel(config).double().eval()


def theirs_of(network, **options):
    """What its `generate` makes of the ragged prompts, left-padded: ids with `<eos>`, and scores if there are."""
    width = 1 + max(map(len, PROMPTS))
    ids = torch.tensor([[*[PAD] * (width - 1 - len(prompt)), BOS, *prompt] for prompt in PROMPTS])
    mask = (ids != PAD).long()
    found = network.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    texts = [row[width:].tolist() for row in found.sequences]
    texts = [ids[: ids.index(EOS) + 1] if EOS in ids else ids for ids in texts]
    texts = [[id for id in ids if id != PAD] for ids in texts]
    return texts, getattr(found, "sequences_scores", None)


def test_greedy_decoding_agrees(network):
    mine = finish_all(decode_all(Wrapped(network), PROMPTS, Greedy(), max_tokens=12))
    texts, _ = theirs_of(network, max_new_tokens=12)
    assert [[node.token for node in branch.path()] for (branch,) in mine] == texts


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(("early", "flag"), [("first", True), ("heuristic", False), ("optimal", "never")])
@pytest.mark.parametrize("options", [{}, {"no_repeat_ngram_size": 2}])
def test_beams_and_their_scores_agree(network, penalty, early, flag, options):
    chain = {"no_repeat_ngram": options["no_repeat_ngram_size"]} if options else {}
    beam = Beam(width=4, length_penalty=penalty, early_stopping=early, **chain)
    mine = finish_all(decode_all(Wrapped(network), PROMPTS, beam, n=4, max_tokens=8))
    texts, scores = theirs_of(
        network,
        max_new_tokens=8,
        num_beams=4,
        num_return_sequences=4,
        length_penalty=penalty,
        early_stopping=flag,
        **options,
    )
    flat = [branch for branches in mine for branch in branches]
    assert [beam.score(branch) for branch in flat] == pytest.approx(scores.tolist(), abs=1e-5)
    assert [[node.token for node in branch.path()] for branch in flat] == texts
