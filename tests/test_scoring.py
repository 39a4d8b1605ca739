"""Shapes: B documents, T positions, V the vocabulary, N ids."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmlab.corpora.document import Document
from lmlab.errors import EmptyDataError, LmlabError, UsageError
from lmlab.models import scorers
from lmlab.models.adaptive.dynamic import Dynamic
from lmlab.models.adaptive.gate import Gate, Gated
from lmlab.models.adaptive.recount import Recount
from lmlab.models.cache import Cache
from lmlab.models.mixture import Mixture
from lmlab.models.ngram import Ngram
from lmlab.models.scorers import Arrays, Blend, Padded, Stepwise, Stream, scorer_of
from lmlab.models.toy import Scripted, Uniform
from lmlab.scoring import evaluate, score_tokens, token_logp
from lmlab.tokens import build_tokenizer
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, UNK
from tests.models.neural.acceptance import make
from tests.stores import of_documents

V = 12
DOCUMENTS = [[4, 5, 6], [], [5, UNK, 7, 4], [4] * 9, [6], [5, 5]]
STORE = of_documents(DOCUMENTS, V, unknown_bytes=3)
COUNTED = Ngram.estimate(Ngram.Settings(order=3), V, np.array(STORE.ids))


def test_the_figures_by_hand():
    """Two documents, "a" and "ab": 1/2 * 1/4, and 1/2 * 1/4 * 1."""
    a, b = 4, 5
    model = Scripted.make(
        {
            (): [0, 0, 0, 0.25, 0.5, 0.25],
            (a,): [0, 0.5, 0, 0.25, 0, 0.25],
            (a, b): [0, 0, 0, 1, 0, 0],
        }
    )
    report = evaluate(model, of_documents([[a], [a, b]]))
    nats = 6 * math.log(2)
    assert (report.documents, report.tokens, report.chars, report.bytes) == (2, 5, 5, 10)
    assert report.total_nats == pytest.approx(nats)
    assert report.nats_per_token == pytest.approx(nats / 5)
    assert report.perplexity == pytest.approx(2 ** (6 / 5))
    assert report.bits_per_char == pytest.approx(6 / 5)
    assert report.bits_per_byte == pytest.approx(6 / 10)
    assert (report.unk_tokens, report.unk_spelling_nats) == (0, 0)
    assert report.perplexity_unk_as_class == report.perplexity


def test_a_uniform_model_has_the_perplexity_of_its_choices():
    report = evaluate(Uniform(V), of_documents([[4, 5], [], [6]]))
    assert report.perplexity == pytest.approx(V - 2)
    assert report.tokens == 6


def test_an_unknown_token_pays_for_its_spelling():
    report = evaluate(Uniform(V), STORE)
    spelled = (3 + 1) * math.log(257)
    assert (report.unk_tokens, report.unk_spelling_nats) == (1, pytest.approx(spelled))
    assert report.total_nats == pytest.approx(report.tokens * math.log(V - 2) + spelled)
    assert report.perplexity_unk_as_class == pytest.approx(V - 2)
    assert report.perplexity > report.perplexity_unk_as_class


def test_sizes_are_those_of_the_text_before_encoding():
    """A word tokenizer sees three tokens; bits are counted over the seven characters and eight bytes."""
    tokenizer = build_tokenizer("word", {}, [Document("né a né")])
    report = evaluate(Uniform(tokenizer.vocab_size), TokenStore.from_documents(tokenizer, [Document("né  a x")]))
    bits = report.total_nats / math.log(2)
    assert (report.tokens, report.chars, report.bytes, report.unk_tokens) == (4, 7, 8, 1)
    assert report.bits_per_char == pytest.approx(bits / 7)
    assert report.bits_per_byte == pytest.approx(bits / 8)


def test_what_cannot_happen_has_infinite_perplexity():
    never = Scripted.make({(): [0, 0, 0, 1, 0]})
    assert evaluate(never, of_documents([[4]])).perplexity == math.inf


class Plain:
    """A model that has `start` and `step` and says nothing of how it scores text."""

    def __init__(self, model):
        self.vocab_size, self.bos, self.eos = model.vocab_size, model.bos, model.eos
        self.start, self.step = model.start, model.step


MODELS = {
    "array": (COUNTED, Arrays),
    "parallel": (make("lstm"), Padded),
    "parallel, window": (make("cnn"), Padded),
    "uniform": (Uniform(V), Padded),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_path_gives_the_same_figures(name):
    model, way = MODELS[name]
    assert type(scorer_of(model)) is way
    assert type(scorer_of(Plain(model))) is Stepwise
    assert vars(evaluate(model, STORE)) == pytest.approx(vars(evaluate(Plain(model), STORE)), rel=1e-5)


def in_pieces_of(size, monkeypatch):
    for name in ("_ARRAY_IDS", "_SORTED_IDS", "_BATCH_TOKENS", "_ROW_TOKENS"):
        monkeypatch.setattr(scorers, name, size)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 7, 12, 1000])
def test_figures_do_not_depend_on_batches(monkeypatch, name, size):
    model, _ = MODELS[name]
    before = vars(evaluate(model, STORE))
    in_pieces_of(size, monkeypatch)
    progress = []
    assert vars(evaluate(model, STORE, progress.append)) == pytest.approx(before, rel=1e-6)
    assert progress == sorted(progress)
    assert progress[-1] == STORE.tokens


@pytest.mark.parametrize("name", MODELS)
def test_documents_do_not_know_of_each_other(name):
    model, _ = MODELS[name]
    known = [[id for id in document if id != UNK] for document in DOCUMENTS]
    alone = sum(evaluate(model, of_documents([document], V)).total_nats for document in known)
    for order in (known, known[::-1]):
        assert evaluate(model, of_documents(order, V)).total_nats == pytest.approx(alone, rel=1e-5)


def test_scores_without_probabilities_are_refused():
    model = Ngram.estimate(Ngram.Settings(order=2, smoothing="stupid-backoff"), V, np.array(STORE.ids))
    with pytest.raises(UsageError, match=r"do not sum to one \(stupid backoff\), so it has no perplexity: train with"):
        evaluate(model, STORE)


def test_nothing_to_score_is_refused():
    with pytest.raises(EmptyDataError, match="there is no document to score"):
        evaluate(Uniform(V), of_documents([]))


def test_tokens_are_ranked_among_all_and_ties_share_the_better_rank():
    model = Scripted.make({(): [0, 0.1, 0, 0.1, 0.2, 0.6], (5,): [0, 0.25, 0, 0.25, 0.25, 0.25]})
    logp_N, rank_N = score_tokens(model, of_documents([[5], [4], [], [UNK]], 6))
    assert rank_N[[0, 1, 2, 4, 5]].tolist() == [1, 1, 2, 3, 3]
    assert logp_N[:2] == pytest.approx([math.log(0.6), math.log(0.25)])


def test_scoring_keeps_nothing_for_learning():
    model = make("gru")
    evaluate(model, STORE)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(isinstance(v, torch.Tensor) for v in vars(evaluate(model, STORE)).values())


def dynamic(lr=0.05):
    return Dynamic(make("lstm"), Dynamic.Settings(rule="sgd", lr=lr, segment=4))


ORDERED = {**{name: model for name, (model, _) in MODELS.items()}, "stepwise": Plain(COUNTED), "stream": dynamic(0)}


def mixtures():
    linear, inner = Mixture.Settings("linear"), [COUNTED, make("cnn")]
    rng = np.random.default_rng(0)
    gate = Gate(rng.normal(size=(7, 3)), rng.normal(size=(4, 2)))
    return {
        "linear": Mixture(linear, [*inner, Plain(make("gru"))]),
        "log-linear": Mixture(Mixture.Settings("log-linear"), inner),
        "gated": Gated(inner, gate),
        "recount": Recount(Mixture(linear, inner), Recount.Settings(shortest=1, longest=3)),
        "recount from nothing": Recount(COUNTED, Recount.Settings(shortest=0, longest=2)),
        "dynamic": dynamic(),
        "learning in a mixture": Mixture(linear, [COUNTED, dynamic()]),
        "cache": Cache(V, Cache.Settings(window=4)),
        "adaptive softmax": make("lstm", softmax="adaptive"),
    }


RANKED = {**ORDERED, **{kind: make(kind) for kind in ("rnn", "gru", "transformer")}, **mixtures()}


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("size", [1, 12, 1000])
def test_tokens_are_scored_in_the_order_of_the_store(monkeypatch, name, size):
    in_pieces_of(size, monkeypatch)
    expected = np.concatenate([*Stepwise(ORDERED[name]).token_logp(STORE.ids)])
    assert token_logp(ORDERED[name], STORE) == pytest.approx(expected, abs=1e-5)


def stepwise(model, store):
    """One document after the other through `start` and `step`: log-probabilities, and rows."""
    rows_NV = np.concatenate([*Stepwise(model).token_rows(store.ids)])
    ids_N = np.array(store.ids[store.ids != BOS], np.int64)
    return rows_NV[np.arange(len(ids_N)), ids_N], rows_NV


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("size", [1, 12, 1000])
def test_ranks_are_those_of_the_rows_step_by_step(monkeypatch, name, size):
    """Where a model learns from the documents before, the first one alone."""
    in_pieces_of(size, monkeypatch)
    model = RANKED[name]
    store = of_documents([[4, 5, 6, 7, 4, 5, 6, 4] * 3], V) if scorer_of(model).adapts else STORE
    logp_N, rank_N = score_tokens(model, store)
    expected_N, rows_NV = stepwise(model, store)
    assert logp_N == pytest.approx(expected_N, abs=1e-5)
    least_N, most_N = (1 + (rows_NV > expected_N[:, None] + gap).sum(1) for gap in (1e-5, -1e-5))
    assert ((least_N <= rank_N) & (rank_N <= most_N)).all()


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("size", [7, 1000])
def test_score_agrees_with_eval(monkeypatch, name, size):
    """All documents, also where one learns from those before: to 1e-6 nats a token, exactly for most."""
    in_pieces_of(size, monkeypatch)
    logp_N, _ = score_tokens(RANKED[name], STORE)
    assert logp_N == pytest.approx(token_logp(RANKED[name], STORE), abs=1e-5)
    assert -logp_N.sum() / STORE.tokens == pytest.approx(
        (evaluate(RANKED[name], STORE, spelling=False)).nats_per_token, abs=1e-6
    )


@pytest.mark.parametrize("name", [*MODELS, "dynamic", "linear"])
def test_what_says_nothing_of_rows_is_ranked_step_by_step(name):
    scorer = scorer_of(RANKED[name])
    fields = {"rows": None, "rows_stream": None, "blend_rows": None, "rank_array": None}
    mute = Plain(RANKED[name])
    mute.scorer = lambda: replace(scorer, **{field: None for field in fields if hasattr(scorer, field)})
    one = of_documents([[4, 5, 6]], V)
    assert score_tokens(mute, one)[1].tolist() == score_tokens(RANKED[name], one)[1].tolist()


@pytest.mark.parametrize("way", [evaluate, score_tokens])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["lstm", "cnn", "transformer", "ngram"])
def test_what_is_no_number_is_refused(way, wrong, kind):
    if kind == "ngram":
        model = Ngram.estimate(Ngram.Settings(order=1), V, np.array(STORE.ids))
        model.trie.levels[0].logp_G[5] = wrong
    else:
        model = make(kind)
        with torch.no_grad():
            model.output.bias[5] = wrong
    with pytest.raises(LmlabError, match=r"the model gives .*(nan|NaN|inf).*: its weights are damaged"):
        way(model, STORE)


def test_a_mixture_is_scored_component_by_component():
    components = [COUNTED, make("cnn"), Plain(make("gru")), dynamic(0)]
    inner = Mixture(Mixture.Settings("linear", (0.5, 0.5)), components[2:])
    mixture = Mixture(Mixture.Settings("linear", (0.2, 0.5, 0.3)), [*components[:2], inner])
    assert type(scorer_of(mixture)) is Blend
    assert vars(evaluate(mixture, STORE)) == pytest.approx(vars(evaluate(Plain(mixture), STORE)), rel=1e-5)


def test_in_a_mixture_a_component_may_learn():
    mixture = Mixture(Mixture.Settings("linear", (0.4, 0.6)), [COUNTED, dynamic()])
    one = of_documents([[4, 5, 6, 7] * 9], V)
    assert vars(evaluate(mixture, one)) == pytest.approx(vars(evaluate(Plain(mixture), one)), rel=1e-4)
    two = of_documents([[4, 5, 6, 7] * 9] * 2, V)
    assert evaluate(mixture, two).nats_per_token < evaluate(mixture, one).nats_per_token


def test_a_stream_tells_its_progress():
    progress = []
    evaluate(dynamic(), STORE, progress.append)
    assert len(progress) > len(STORE)
    assert progress[-1] == STORE.tokens


def test_only_what_learns_says_that_it_does():
    linear, plain = Mixture.Settings("linear"), Plain(COUNTED)
    assert type(scorer_of(dynamic())) is Stream
    learning = [dynamic(), Mixture(linear, [COUNTED, dynamic()]), Recount(COUNTED)]
    assert all(scorer_of(model).adapts for model in learning)
    assert not any(scorer_of(model).adapts for model in (COUNTED, make("lstm"), plain, Mixture(linear, [COUNTED])))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_documents_are_cut_at_their_beginnings(monkeypatch, size):
    monkeypatch.setattr(scorers, "_ARRAY_IDS", size)
    found = [ids_N.tolist() for ids_N in scorers.documents(STORE.ids)]
    assert found == [STORE.document(number).tolist() for number in range(len(STORE))]
    assert list(scorers.documents(np.empty(0, np.uint16))) == []
