import itertools
import math
import re

import pytest
import torch

import lmlab
from lmlab.errors import DataError, EmptyDataError, RunExistsError, SettingError, UnknownNameError, UsageError
from lmlab.vocabulary import spelling_nats
from tests.texts import TEXT, TINY, some_text

TOKENIZERS = ("char", "byte", "word", "bpe")


@pytest.fixture(scope="module")
def models():
    """An n-gram for each tokenizer, kept in memory."""
    with pytest.MonkeyPatch.context() as patch, __import__("tempfile").TemporaryDirectory() as folder:
        patch.setenv("LMLAB_CACHE", folder)
        yield {
            tokenizer: lmlab.train(text=TEXT, tokenizer=tokenizer, model="ngram", order=3) for tokenizer in TOKENIZERS
        }


@pytest.fixture
def poem(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


# -- scoring ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("text", ["the cat saw an owl.", "Zoë ¿qué?\n\n漢 zebra", " ", "x"])
def test_the_bits_of_all_tokens_are_the_total(models, tokenizer, text):
    scores = models[tokenizer].score(text)
    bits = [row["bits"] for row in scores.rows]
    assert sum(bits) == pytest.approx(scores.total["total_nats"] / math.log(2), rel=1e-5)
    assert [row["cumulative_bits"] for row in scores.rows] == pytest.approx(torch.tensor(bits).double().cumsum(0))
    assert sum(row["unknown"] for row in scores.rows) == scores.total["unk_tokens"]
    assert len(scores.rows) == scores.total["tokens"]
    assert scores.rows[-1]["text"] == "<eos>"
    assert scores.total["chars"] == len(text)


def test_an_unknown_token_pays_for_its_spelling(models):
    known, unknown = models["char"].score("the cat"), models["char"].score("the ca☃")
    row = unknown.rows[-2]
    assert (row["text"], row["unknown"]) == ("☃", True)
    assert row["bits"] * math.log(2) > spelling_nats(1, len("☃".encode()))
    assert [r["bits"] for r in unknown.rows[:6]] == [r["bits"] for r in known.rows[:6]]


def test_rank_one_is_what_greedy_writes(models):
    lm = models["word"]
    written = lm.generate("the cat", lmlab.Greedy(), max_tokens=5)[0].text
    rows = lm.score("the cat" + written).rows
    assert [row["rank"] for row in rows[2:7]] == [1] * 5
    assert lm.score("the cat cat").rows[2]["rank"] > 1


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_text_is_read_as_a_file_would_be(models, tokenizer):
    plain = models[tokenizer].score("the cat\nsaw\na dog")
    other = models[tokenizer].score("\ufeffthe cat\r\nsaw\r\na dog")
    assert other.total == plain.total
    assert other.columns["bits"].tolist() == plain.columns["bits"].tolist()


def test_no_text_is_refused(models):
    with pytest.raises(EmptyDataError):
        models["char"].score("")
    with pytest.raises(DataError, match=r"U\+0000"):
        models["char"].score("a\0b")


def test_the_table_is_a_frame(models):
    table = models["char"].score("the cat").table
    assert list(table["text"]) == [*"the cat", "<eos>"]
    assert table["cumulative_bits"].is_monotonic_increasing


# -- evaluating -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["ngram", "lstm"])
def test_saved_loaded_and_in_memory_agree(tmp_path, poem, model):
    settings = {"order": 3} if model == "ngram" else TINY
    fresh = lmlab.train(poem, model=model, **settings)
    before = fresh.evaluate()
    fresh.save(tmp_path / "a")
    loaded = lmlab.load(tmp_path / "a")
    assert loaded.evaluate() == fresh.evaluate() == before | {"run": str(tmp_path / "a")}
    asked = {"n": 2, "max_tokens": 9}
    strategy = lmlab.Sample(seed=3)
    assert loaded.generate("the", strategy, **asked) == fresh.generate("the", strategy, **asked)
    with pytest.raises(RunExistsError):
        fresh.save(tmp_path / "a")


def test_its_own_test_split_is_what_it_never_saw(tmp_path, poem):
    lm = lmlab.train(poem, model="ngram", order=3, out=tmp_path / "run")
    own = lmlab.load(tmp_path / "run").evaluate()
    assert own["protocol"]["split"] == "test"
    assert own["chars"] == lm.manifest["data"]["splits"]["test"]["chars"]
    assert lmlab.load(tmp_path / "run").evaluate(split="train")["perplexity"] < own["perplexity"]
    whole = lmlab.load(tmp_path / "run").evaluate(split="all")
    assert whole["chars"] == len(TEXT) == lm.evaluate(split="all")["chars"]


def test_another_text_is_read_whole_whatever_the_run_was_trained_on(tmp_path):
    for name, text in (("a.txt", TEXT), ("b.txt", some_text(seed=1))):
        (tmp_path / name).write_text(text, encoding="utf-8")
    settings = {"unit": "line", "limit": 60, "max_chars": 10, "split": "none", "model": "ngram", "order": 2}
    lm = lmlab.train(str(tmp_path / "a.txt"), **settings)
    figures = lm.evaluate(str(tmp_path / "b.txt"))
    assert figures["documents"] == 150
    assert figures["chars"] == len(some_text(seed=1)) - 150  # a line is a document, its end no part of it
    assert figures["protocol"]["split"] == "all"
    assert lm.evaluate(str(tmp_path / "b.txt"), data={"limit": 7})["documents"] == 7


def test_words_and_characters_are_measured_on_the_same_bytes(models, tmp_path):
    (tmp_path / "b.txt").write_text("the cat met a wombat", encoding="utf-8")
    figures = [models[tokenizer].evaluate(str(tmp_path / "b.txt")) for tokenizer in TOKENIZERS]
    assert {(each["chars"], each["bytes"]) for each in figures} == {(20, 20)}
    assert figures[2]["unk_tokens"] == 2  # "met" and "wombat"
    for each in figures:
        assert each["bits_per_byte"] == pytest.approx(each["total_nats"] / math.log(2) / 20)


def test_what_cannot_be_evaluated_is_told(models, tmp_path, poem):
    with pytest.raises(UnknownNameError, match="no split is called 'tset'"):
        lmlab.train(poem, model="ngram", order=2).evaluate(split="tset")
    with pytest.raises(EmptyDataError, match="held no text out"):
        lmlab.train(text=TEXT, model="ngram", order=2, split="none").evaluate()
    models["char"].save(tmp_path / "run")
    with pytest.raises(UsageError, match="came from a program"):
        lmlab.load(tmp_path / "run").evaluate()
    backoff = lmlab.train(text=TEXT, model="ngram", order=2, smoothing="stupid-backoff")
    with pytest.raises(UsageError, match="do not sum to one"):
        backoff.evaluate()


# -- generating -------------------------------------------------------------------------------------------------------

STRATEGIES = [
    lmlab.Greedy(),
    lmlab.Sample(seed=1),
    lmlab.Sample(seed=2, temperature=1.5),
    lmlab.Sample(seed=3, top_k=2),
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("prompt", ["", "the 漢", "naïve Zoë saw"])
@pytest.mark.parametrize("stop", [(), (" o", "n f"), ("\n",)], ids=str)
def test_the_stream_is_the_text(models, tokenizer, strategy, prompt, stop):
    asked = {"max_tokens": 25, "stop": stop, "allow_unknown": True}
    (generated,) = models[tokenizer].generate(prompt, strategy, **asked)
    assert "".join(step.new for step in models[tokenizer].stream(prompt, strategy, **asked)) == generated.text


def test_the_stream_of_several_is_the_first_ones(models):
    strategy, asked = lmlab.Sample(seed=4), {"n": 4, "max_tokens": 60, "stop": ("\n",)}
    generated = models["char"].generate("the", strategy, **asked)
    steps = list(models["char"].stream("the", strategy, **asked))
    assert "".join(step.new for step in steps) == generated[0].text
    assert len({len(each.text) for each in generated}) > 1  # they do end at different steps


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("strategy", [None, "beam:width=3", lmlab.Greedy(), "speculative"])
def test_a_text_is_what_was_asked_for(models, tokenizer, strategy):
    lm = models[tokenizer]
    named = {"draft": lm.model} if strategy == "speculative" else {}
    prompt, regex = ("the", " (cat|owl) (saw|and) (the|an) [a-z]{1,9}") if tokenizer == "word" else ("a", "[a-e ]{3,9}")
    asked = {"regex": regex, "max_tokens": 30, **named}
    (generated,) = lm.generate(prompt, strategy, **asked)
    assert re.fullmatch(regex, generated.text)
    assert generated.end == "eos"
    if not named and strategy is None:
        asked |= {"seed": 1}
        (generated,) = lm.generate(prompt, **asked)
        assert "".join(step.new for step in lm.stream(prompt, **asked)) == generated.text


def test_the_texts_of_a_beam_end_in_the_result(models):
    asked = {"n": 3, "max_tokens": 8}
    *_, last = models["word"].stream("the cat", lmlab.Beam(width=3), **asked)
    assert list(last.texts) == [each.text for each in models["word"].generate("the cat", lmlab.Beam(width=3), **asked)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    "strategy", ["beam:width=3", "stochastic_beam:seed=1", "mbr:samples=3,seed=1", "exact", "lookup:seed=1"]
)
@pytest.mark.parametrize("stop", [(), "e", (" c", "漢")], ids=str)
def test_what_a_search_streams_stands_in_its_text(models, tokenizer, strategy, stop):
    asked = {"max_tokens": 6, "stop": stop, "temperature": 0.5}
    (generated,) = models[tokenizer].generate("the cat", strategy, **asked)
    steps = list(models[tokenizer].stream("the cat", strategy, **asked))
    assert "".join(step.new for step in steps) == generated.text
    assert not any(mark in generated.text for mark in stop)


def test_many_prompts_go_on_as_each_alone(models):
    for tokenizer in TOKENIZERS:
        lm, prompts, asked = models[tokenizer], ["the cat", "", "the"], {"n": 2, "max_tokens": 9, "seed": 4}
        alone = [lm.generate(prompt, **asked) for prompt in prompts]
        assert [[one.text for one in several] for several in lm.generate_all(prompts, **asked)] == [
            [one.text for one in several] for several in alone
        ]
    assert models["char"].generate_all([]) == []


def test_a_generation_tells_its_tokens(models):
    (one,) = models["char"].generate("the", temperature=0.5, seed=1, max_tokens=9, alternatives=3, trace=True)
    assert "".join(token.text for token in one.written) == one.text
    assert sum(token.logp for token in one.written) == pytest.approx(one.logp)
    assert sum(token.chain_logp for token in one.written) == pytest.approx(one.chain_logp)
    assert one.perplexity == pytest.approx(math.exp(-one.logp / len(one.written)))
    assert all(len(token.alternatives) == 3 and len(token.trace) == 1 for token in one.written)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_words_that_a_text_must_have(models, tokenizer):
    must = ["cat"] if tokenizer == "word" else ["cat", "th"]
    (one,) = models[tokenizer].generate("the ", "constrained", must=must, width=8, max_tokens=30)
    assert all(word in one.text for word in must)


def test_a_prompt_longer_than_any_window_is_read(models):
    (one,) = models["char"].generate("the cat " * 400, "greedy", max_tokens=3)
    assert one.tokens == 3


def test_a_stop_string_is_cut_off(models):
    free = models["char"].generate("the", lmlab.Sample(seed=1), max_tokens=80)[0]
    cut = models["char"].generate("the", lmlab.Sample(seed=1), max_tokens=80, stop=[".\n"])[0]
    assert cut.text == free.text[: free.text.index(".\n")]
    assert cut.end == "stop"
    assert cut.tokens == len(cut.text) + 2


@pytest.mark.parametrize(("tokenizer", "prompt", "named"), [("char", "the ☃", "☃"), ("word", "the wombat", "wombat")])
def test_an_unknown_prompt_is_refused_unless_allowed(models, tokenizer, prompt, named):
    with pytest.raises(UsageError, match=f"the prompt has '{named}'"):
        models[tokenizer].generate(prompt)
    with pytest.raises(UsageError, match=f"the prompt has '{named}'"):
        next(models[tokenizer].stream(prompt))
    (generated,) = models[tokenizer].generate(prompt, lmlab.Sample(seed=1), max_tokens=3, allow_unknown=True)
    assert generated.prompt == prompt
    assert generated.tokens >= 1


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_bytes_know_every_prompt(models, tokenizer):
    lm = models[tokenizer]
    (generated,) = lm.generate("☃ wombat", lmlab.Greedy(), max_tokens=2)
    assert generated.prompt == "☃ wombat"
    rows = lm.score("☃ wombat" + generated.text).rows  # what it wrote is what it holds likeliest after these bytes
    assert "".join(row["text"] for row in rows[:-1]).endswith(" wombat" + generated.text)
    assert not any(row["unknown"] for row in rows)
    written = rows[-1 - generated.tokens : -1] if generated.end == "length" else rows[-1 - generated.tokens :]
    assert [row["rank"] for row in written] == [1] * len(written)
    assert written


def test_a_word_after_the_prompt_keeps_its_space(models):
    text = models["word"].generate("the", lmlab.Greedy(), max_tokens=1)[0].text
    assert text in (" cat", " 漢字")  # what follows "the" in the text


@pytest.mark.parametrize("wrong", [None, 5, ["a", "b"], b"text", {"text": "a"}])
def test_what_is_no_prompt_is_told(models, wrong):
    with pytest.raises(SettingError, match=r"is .*, but must be a string"):
        models["char"].generate(wrong)


@pytest.mark.parametrize("wrong", [5, lmlab.Greedy, object()])
def test_what_is_no_strategy_is_told(models, wrong):
    with pytest.raises(SettingError, match=r"strategy is .*, but must be a strategy"):
        models["char"].generate("", wrong)


def test_a_strategy_may_be_named(models):
    lm, asked = models["char"], {"max_tokens": 8}
    assert lm.generate("the", "greedy", **asked) == lm.generate("the", lmlab.Greedy(), **asked)
    assert lm.generate("the", "beam", width=3, n=2, **asked) == lm.generate("the", lmlab.Beam(width=3), n=2, **asked)
    same = lm.generate("the", lmlab.Sample(temperature=0.5, seed=1), **asked)
    assert lm.generate("the", temperature=0.5, seed=1, **asked) == same
    assert lm.generate("the", "sample", temperature=0.5, seed=1, **asked) == same
    assert [step.new for step in lm.stream("the", temperature=0.5, seed=1, **asked)]


@pytest.mark.parametrize(
    ("strategy", "named", "said"),
    [
        ("greddy", {}, "no strategy is called 'greddy': did you mean 'greedy'"),
        (None, {"temprature": 0.5}, "no keyword of Sample is called 'temprature': did you mean 'temperature'"),
        (None, {"temperature": "hot"}, "temperature is 'hot', but must be"),
        (None, {"temperature": -1}, "temperature is -1, but must be"),
        ("greedy", {"width": 5}, "no keyword of Greedy is called 'width'"),
        ("beam:widht=3", {}, "no keyword of Beam is called 'widht': did you mean 'width'"),
        ("beam:width", {}, "strategy is 'beam:width', but must be NAME or"),
        ("beam", {"width": 0}, r"width is 0, but must be"),
        (lmlab.Greedy(), {"temperature": 0.5}, "temperature stands beside a strategy"),
    ],
)
def test_what_a_strategy_does_not_take_is_told(models, strategy, named, said):
    for call in (models["char"].generate, lambda *given, **named: next(models["char"].stream(*given, **named))):
        with pytest.raises(UsageError, match=said):
            call("the", strategy, **named)


@pytest.mark.parametrize("strategy", [lmlab.Greedy(), lmlab.Sample(seed=1), lmlab.Beam(width=4)], ids=str)
def test_unknown_is_not_written_unless_allowed(strategy):
    """Half of what follows "the" in the text is unknown to a vocabulary of seven."""
    rare = "".join(f"the w{number} the cat " for number in range(200))
    lm = lmlab.train(text=rare, tokenizer="word", model="ngram", order=2, vocab_size=6)
    assert "[UNK]" in lm.generate("the", strategy, max_tokens=30, allow_unknown=True)[0].text
    (generated,) = lm.generate("the", strategy, max_tokens=30)
    assert "[UNK]" not in generated.text
    assert generated.logp < 0  # the model's own: less than all of its mass


# -- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_next_tokens_are_the_probabilities_of_scoring(models, tokenizer):
    lm = models[tokenizer]
    for prefix in ("", "the cat"):
        everything = lm.next_tokens(prefix, k=None)
        assert sum(everything.values()) == pytest.approx(1, abs=1e-5)
        assert list(everything.values()) == sorted(everything.values(), reverse=True)
        assert list(lm.next_tokens(prefix, k=3).items()) == list(everything.items())[:3]
        row = lm.score("the cat").rows[-1 if prefix else 0]
        assert everything[row["text"]] == pytest.approx(2 ** -row["bits_without_spelling"], rel=1e-4)


def test_counts_are_what_followed(models):
    lm = models["word"]
    text = lm.held_out("train")
    ids, the = text.ids.tolist(), lm.tokenizer.token_to_id("the")
    after = [lm.tokenizer.id_to_token(next) for before, next in itertools.pairwise(ids) if before == the]
    expected = {token: after.count(token) for token in set(after)}
    assert lmlab.train(text=TEXT, tokenizer="word", model="ngram", order=2).counts("the") == expected
    pairs = lm.counts("the cat")
    assert sum(pairs.values()) <= expected["cat"]
    assert list(pairs.values()) == sorted(pairs.values(), reverse=True)
    assert lm.counts("zyx zyx") == {}
    assert sum(lm.counts().values()) == text.documents  # after <bos>


def test_counts_of_a_loaded_run_are_read_from_its_text_again(poem, tmp_path):
    fresh = lmlab.train(poem, tokenizer="char", model="ngram", order=3)
    fresh.save(tmp_path / "run")
    assert lmlab.load(tmp_path / "run").counts("th") == fresh.counts("th") != {}


def test_what_cannot_be_asked_is_told_in_a_line(models, poem):
    lm = models["word"]
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(SettingError, match="an integer >= 1"):
            lm.next_tokens("the", k=wrong)
    with pytest.raises(UsageError, match="lacks"):
        lm.next_tokens("zyxzyx")
    assert "[UNK]" in lm.next_tokens("zyxzyx", k=None, allow_unknown=True)
    estimated = lmlab.estimate(poem, order=2)
    with pytest.raises(UsageError, match="not kept"):
        estimated.counts("the")
    assert estimated.tokenizer.top(1)[0][1] == TEXT.split().count(estimated.tokenizer.top(1)[0][0])
    stupid = lmlab.train(text=TEXT, model="ngram", order=2, smoothing="stupid-backoff")
    with pytest.raises(UsageError, match="sum to one"):
        stupid.next_tokens("t")
    with pytest.raises(UsageError, match="only an n-gram"):
        lmlab.train(text=TEXT, model="cnn", steps=1, baseline=False).counts("t")


def test_a_generation_has_its_perplexity(models):
    (made,) = models["char"].generate("the", lmlab.Greedy(), max_tokens=5)
    assert made.perplexity == pytest.approx(math.exp(-made.logp / (made.tokens + (made.end == "eos"))))
