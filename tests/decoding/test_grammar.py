"""What a grammar lets through is exactly its language, by every spelling, under every strategy."""

import json
import math
import re
import sys
from collections import Counter
from functools import cache, partial

import numpy as np
import pytest
import torch

from lmlab.corpora.document import Document
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
from lmlab.decoding.grammar import Grammar
from lmlab.errors import LmlabError, MissingExtraError, SettingError, UsageError
from lmlab.models.neural.rnn import LSTM
from lmlab.models.ngram.model import Ngram
from lmlab.models.toy import Scripted, Uniform
from lmlab.tokens.base import build_tokenizer
from lmlab.vocabulary import EOS, SPECIALS

pytest.importorskip("llguidance", reason="the extra grammar is not installed")

TEXT = "the king saw a queen, and the kin of 19 kings. Abba é\n"
# Words that begin one another, forced text, a character of two bytes, and a text that begins another.
REGEX = "(the|a) (king|kin|é)(, a queen\\.)?"
LANGUAGE = {f"{a} {b}{c}" for a in ("the", "a") for b in ("king", "kin", "é") for c in ("", ", a queen.")}


@cache
def tokenizer(kind):
    if kind == "metaspace":
        return metaspace()
    settings = {"vocab_size": 280, "min_count": 1} if kind == "bpe" else {}
    return build_tokenizer(kind, settings, [Document(TEXT)] * 3)


def metaspace():
    """As SentencePiece spells: a space at the beginning is dropped, others are part of the tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from lmlab.tokens.hf import HuggingFaceTokenizer

    pieces = ["</s>", "▁", *sorted({*TEXT} - {" "}), "▁t", "▁th", "▁the", "▁a", "▁k", "▁ki", "in"]
    pairs = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "a"), ("▁", "k"), ("▁k", "i"), ("i", "n")]
    native = Tokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, pairs))
    native.pre_tokenizer, native.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    native.add_special_tokens(["</s>"])
    return HuggingFaceTokenizer(native, len(pieces), [0])


def spelled(known, language, prompt=()):
    """Each way to spell a text of the language: its ids, and its probability if all that leads on is equally likely."""
    members = [text.encode() for text in language]
    found = {}

    def children(text, previous):
        grown = ((id, text + known.surface(id, previous)) for id in range(len(SPECIALS), known.vocab_size))
        return [(id, longer) for id, longer in grown if len(longer) > len(text) and alive(longer, id)]

    @cache
    def alive(text, previous):
        begun = any(member.startswith(text) for member in members)
        return text in members or (begun and bool(children(text, previous)))

    def walk(ids, text, previous, p):
        ways = children(text, previous)
        share = p / (len(ways) + (text in members))
        if text in members:
            found[*ids, EOS] = share
        for id, longer in ways:
            walk((*ids, id), longer, id, share)

    walk((), b"", prompt[-1] if prompt else None, 1.0)
    return found


def read(branch):
    return tuple(node.token for node in branch.path())


def off(drawn, expected):
    """Chi-square in standard deviations above its mean."""
    assert set(drawn) <= set(expected)
    total, freedom = sum(drawn.values()), len(expected) - 1
    square = sum((drawn[ids] - total * p) ** 2 / (total * p) for ids, p in expected.items())
    return (square - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("kind", ["char", "byte", "word", "code", "bpe", "metaspace"])
def test_every_spelling_of_every_text_comes_and_no_other_with_its_probability(kind):
    known = tokenizer(kind)
    parts = {f"{a} {b}" for a in ("the", "a") for b in ("king", "kin", "é")}
    language = {text for text in LANGUAGE | parts if kind != "code" or ", a queen." not in text}
    regex = REGEX if kind != "code" else "(the|a) (king|kin|é)"  # of code, text is written as "kin , a queen ."
    expected = spelled(known, language)
    strategy = StochasticBeam(width=len(expected) + 9, seed=0)
    grammar = Grammar(known, regex=regex)
    made = finish(decode(Uniform(known.vocab_size), [], strategy, n=strategy.width, max_tokens=40, grammar=grammar))
    assert {read(branch): math.exp(branch.drawn_total) for branch in made} == pytest.approx(expected)
    assert {known.decode(branch.ids()) for branch in made} == language


@pytest.mark.parametrize("kind", ["char", "bpe", "word"])
@pytest.mark.parametrize(
    "strategy",
    [Sample, Lookup, lambda seed: Speculative(draft=Uniform(tokenizer("bpe").vocab_size), lookahead=3, seed=seed)],
)
def test_samples_are_drawn_in_proportion(kind, strategy):
    known = tokenizer(kind)
    model, drawer = Uniform(known.vocab_size), strategy(seed=1)
    if isinstance(drawer, Speculative):
        drawer = Speculative(draft=model, lookahead=3, seed=1)
    expected = spelled(known, LANGUAGE)
    grammar = Grammar(known, regex=REGEX)
    drawn = Counter(map(read, finish(decode(model, [], drawer, n=400, max_tokens=40, grammar=grammar))))
    assert off(drawn, expected) < 4


@pytest.mark.slow
def test_a_million_samples_of_a_toy_grammar():
    known = tokenizer("char")
    expected, grammar = spelled(known, LANGUAGE), Grammar(known, regex=REGEX)
    drawn = Counter()
    for seed in range(500):
        steps = decode(Uniform(known.vocab_size), [], Sample(seed=seed), n=2000, max_tokens=40, grammar=grammar)
        drawn.update(map(read, finish(steps)))
    assert drawn.keys() == expected.keys()
    assert off(drawn, expected) < 4


def logp_of(model, ids):
    logp_BV, state = model.start([[]])
    total = 0.0
    for id in ids:
        total += float(logp_BV[0, id])
        logp_BV, state = model.step(state, torch.tensor([id]))
    return total


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_a_wide_beam_and_exact_search_find_the_likeliest_of_all(kind):
    known = tokenizer(kind)
    torch.manual_seed(0)
    model = LSTM(LSTM.Settings(hidden=8), known.vocab_size).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4)
        ranked = sorted(((logp_of(model, ids), ids) for ids in spelled(known, LANGUAGE)), reverse=True)[:4]
    grammar, wide = Grammar(known, regex=REGEX), {"width": 4000, "length_penalty": 0}
    for strategy in (Beam(**wide), DiverseBeam(**wide, groups=1), Exact()):
        made = finish(decode(model, [], strategy, n=4, max_tokens=40, grammar=grammar))
        assert [read(branch) for branch in made] == [ids for _, ids in ranked]
        assert [branch.total for branch in made] == pytest.approx([total for total, _ in ranked], abs=1e-4)


STRATEGIES = [
    Greedy(),
    Sample("temperature=2,top_k=3", seed=1),
    Beam(width=3),
    BeamSample(width=3, seed=1),
    DiverseBeam(width=4, groups=2),
    StochasticBeam(width=3, seed=1),
    MBR(samples=5, seed=1),
    Exact(),
    Speculative(draft=Uniform(tokenizer("char").vocab_size), seed=1),
    Lookup(seed=1),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_every_strategy_writes_the_language_and_begins_it_where_it_is_cut(strategy):
    known = tokenizer("char")
    model = Uniform(known.vocab_size)
    for several in finish_all(decode_all(model, [[], [9, 9]], strategy, grammar=Grammar(known, regex=REGEX))):
        assert all(branch.end == "eos" and known.decode(branch.ids()) in LANGUAGE for branch in several)
    (cut,) = finish(decode(model, [], strategy, max_tokens=4, grammar=Grammar(known, regex="(ab){9}")))
    assert (known.decode(cut.ids()), cut.end) == ("abab", "length")


@pytest.mark.parametrize("strategy", [Greedy(), Sample(seed=1), Sample(temperature=0.7, seed=1)], ids=str)
def test_models_that_write_many_tokens_a_call_obey_too(strategy):
    known = tokenizer("char")
    torch.manual_seed(0)
    network = LSTM(LSTM.Settings(hidden=8), known.vocab_size).eval()
    counted = Ngram.estimate(Ngram.Settings(order=3), known.vocab_size, np.array([2, *known.encode(TEXT).ids, 3]))
    for model in (network, counted):
        (made,) = finish(decode(model, [], strategy, max_tokens=200, grammar=Grammar(known, regex=f"({REGEX} ){{9}}")))
        assert re.fullmatch(f"({REGEX} ){{9}}", known.decode(made.ids()))


def test_words_that_must_come_come_within_the_grammar():
    known = tokenizer("word")
    must = [known.encode("queen").ids.tolist()]
    made = finish(decode(Uniform(known.vocab_size), [], Constrained(must=must), grammar=Grammar(known, regex=REGEX)))
    assert known.decode(made[0].ids()) in {text for text in LANGUAGE if "queen" in text}


def test_after_a_prompt_words_begin_with_their_space():
    known = tokenizer("word")
    prompt = known.encode("saw").ids.tolist()
    steps = partial(decode, Uniform(known.vocab_size), prompt, Greedy())
    (made,) = finish(steps(grammar=Grammar(known, regex=" the kin")))
    assert known.decode([*prompt, *made.ids()]) == "saw the kin"
    with pytest.raises(LmlabError, match="no token goes on after 'saw' as the grammar wants"):
        finish(steps(grammar=Grammar(known, regex="the kin")))


def test_matchers_that_were_let_go_are_made_again():
    known = tokenizer("char")
    model, grammar = Uniform(known.vocab_size), Grammar(known, regex="([a-f]{3} )+")
    expected = finish(decode(model, [], Lookup(seed=3), n=100, max_tokens=12, grammar=grammar))
    assert sum(branch.length for branch in expected) > len(grammar._known)
    grammar.allowed = lambda rows: (grammar._known.clear(), Grammar.allowed(grammar, rows))[1]
    again = finish(decode(model, [], Lookup(seed=3), n=100, max_tokens=12, grammar=grammar))
    assert [*map(read, again)] == [*map(read, expected)]


def test_no_processor_of_ones_own_can_break_it():
    known = tokenizer("char")
    (made,) = finish(
        decode(
            Uniform(known.vocab_size),
            [],
            Sample(lambda rows, logp_BV: np.zeros_like(logp_BV), seed=1),
            grammar=Grammar(known, regex="[ab]{20}"),
        )
    )
    assert re.fullmatch("[ab]{20}", known.decode(made.ids()))


A, B, C = 4, 5, 6


def test_a_text_that_cannot_go_on_makes_room_in_a_beam_and_ends_a_sample():
    known = build_tokenizer("char", {}, [Document("abc")])
    likely = Scripted.make({(): [0, 0, 0, 0, 0.9, 0.1, 0]}, [0, 0, 0, 0.25, 0.25, 0.25, 0.25])
    dead_end = {"grammar": Grammar(known, regex="aé|b[bc]"), "max_tokens": 9}
    for strategy in (Beam(width=2), DiverseBeam(width=2, groups=1), StochasticBeam(width=4, seed=1), Exact()):
        assert {tuple(each.ids()) for each in finish(decode(likely, [], strategy, n=2, **dead_end))} == {(B, B), (B, C)}
    for strategy in (Greedy(), Lookup(temperature=0), Speculative(draft=likely, temperature=0)):
        with pytest.raises(LmlabError, match="no token goes on after 'a' as the grammar wants"):
            finish(decode(likely, [], strategy, **dead_end))
    for strategy in (Greedy(), Beam(), StochasticBeam(), Exact()):
        with pytest.raises(LmlabError, match="no token goes on at the beginning"):
            finish(decode(likely, [], strategy, grammar=Grammar(known, regex="[0-9]{4}")))
        with pytest.raises(LmlabError, match="or its p is 0"):
            finish(decode(likely, [], strategy, grammar=Grammar(known, regex="c")))


def test_a_group_may_be_left_with_nothing_while_another_has_settled():
    known = build_tokenizer("char", {}, [Document("abcde")])
    b, c, d, e = range(5, 9)
    likely = {b: 0.4, c: 0.3, d: 0.2, e: 0.1}
    table = {(): [likely.get(id, 0) for id in range(9)], (b,): [0, 0, 0, 0.9, 0.1, 0, 0, 0, 0]}
    model = Scripted.make(table, [0, 0, 0, 0, 1, 0, 0, 0, 0])
    strategy = DiverseBeam(width=4, groups=2, diversity=9, length_penalty=0)
    (made,) = finish(decode(model, [], strategy, grammar=Grammar(known, regex="ba{0,9}|[cde]aé")))
    assert known.decode(made.ids()) == "b"


@pytest.mark.parametrize("as_text", [False, True])
def test_json_of_a_schema(as_text):
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["é", "Abba"]}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
        "required": ["name", "age"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
    known = tokenizer("byte")
    grammar = Grammar(known, json_schema=json.dumps(schema) if as_text else schema)
    for branch in finish(decode(Uniform(known.vocab_size), [], Sample(seed=1), n=20, grammar=grammar)):
        made = json.loads(known.decode(branch.ids()))
        assert made["name"] in ("é", "Abba")
        assert 0 <= made["age"] <= 120
        assert branch.end == "eos"


def test_a_grammar_counts_brackets():
    known = build_tokenizer("char", {}, [Document("()+1")])
    lark = 'start: sum\nsum: term ("+" term)?\nterm: "1" | "(" sum ")"  // nested'
    made = finish(decode(Uniform(known.vocab_size), [], Sample(seed=1), n=50, grammar=Grammar(known, lark=lark)))
    texts = {known.decode(branch.ids()) for branch in made}
    assert len(texts) > 5
    for text in texts:
        assert eval(compile(text, "made", "eval"), {"__builtins__": {}}) >= 1  # noqa: S307


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"regex": "("}, r"^regex is '\(', but must be a regular expression that llguidance reads: unclosed group$"),
        ({"regex": "a(?=b)"}, "look-around, including look-ahead and look-behind, is not supported"),
        ({"regex": r"(a)\1"}, "backreferences are not supported"),
        ({"regex": 3}, "^regex is 3, but must be a string"),
        ({"regex": "(" * 1_000_000}, r"^regex is '\(\(.*unclosed group"),
        ({"json_schema": {"type": "strin"}}, "Invalid type: strin"),
        ({"json_schema": {"not": {}}}, "not"),
        ({"json_schema": "{"}, "^json_schema is '{', but must be JSON"),
        ({"json_schema": "[1]"}, r"^json_schema is \[1\], but must be an object"),
        ({"json_schema": {"a": {1, 2}}}, "must be JSON"),
        ({"json_schema": False}, "schema is false"),
        ({"lark": "start: foo"}, 'unknown name: "foo"'),
        ({"lark": ""}, "no start rule found"),
        ({"lark": "start: " + "(" * 100_000}, "too deeply nested"),
        ({}, "^regex, json_schema, grammar are one choice, but none was given: give one of them"),
        ({"regex": "a", "lark": "b"}, "but regex and grammar was given"),
    ],
)
def test_what_is_no_grammar_is_refused_in_one_line(told, message):
    with pytest.raises(UsageError, match=message) as caught:
        Grammar(tokenizer("char"), **told)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700


def test_a_regular_expression_of_a_megabyte_is_followed():
    known = tokenizer("char")
    grammar = Grammar(known, regex="ab" * 500_000)
    (made,) = finish(decode(Uniform(known.vocab_size), [], Greedy(), max_tokens=6, grammar=grammar))
    assert known.decode(made.ids()) == "ababab"


def test_a_grammar_that_grows_too_complex_stops_in_one_line():
    known = build_tokenizer("char", {}, [Document("ab")])
    rules = [f'r{at}: "a" r{(7 * at + 1) % 2500} | "b"' for at in range(2500)]
    grammar = Grammar(known, lark="\n".join([f"start: {' | '.join(f'r{at}' for at in range(2500))}", *rules]))
    with pytest.raises(LmlabError, match=r"^the grammar stopped \(.*max is 2000.*\): make it simpler$"):
        finish(decode(Uniform(known.vocab_size), [], Greedy(), grammar=grammar))


def test_a_grammar_of_another_vocabulary_is_refused():
    with pytest.raises(SettingError, match="the grammar's tokenizer is 'one of"):
        decode(Uniform(7), [], Greedy(), grammar=Grammar(tokenizer("char"), regex="a"))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lmlab\[grammar\]'"):
        Grammar(tokenizer("char"), regex="a")
