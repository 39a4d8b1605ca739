"""The table of surprisal: offsets, sums by word, sentence and document, files, spans, bad input."""

import csv
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

import lmlab
from lmlab import corpora
from lmlab.corpora.document import PIECE_CHARS, Document
from lmlab.errors import EmptyDataError, LmlabError, SettingError, UnknownNameError, UsageError
from lmlab.facade.estimate import import_arpa
from lmlab.facade.surprisal import UNITS
from lmlab.tokens import build_tokenizer
from tests.texts import TEXT

TOKENIZERS = {
    "char": {},
    "char, lower case": {"lower": True},
    "byte": {},
    "bpe": {"vocab_size": 300},
    "word": {"vocab_size": 20},
    "word, no marks": {"strip_punctuation": True, "lower": True},
    "word, by space": {"split": "space"},
    "word, by space, no marks": {"split": "space", "strip_punctuation": True},
    "code": {"vocab_size": 30},
}
GIVEN = (
    "\ufeffThe cat  saw (an) owl.\r\n\r\n  Zoë: ¿don't 漢字? \u0130stanbul\t\U0001f600 wombat!\" And"
    " \u00a0 x = 'a b'  # x\n "
)


@pytest.fixture(scope="module")
def models():
    with pytest.MonkeyPatch.context() as patch, __import__("tempfile").TemporaryDirectory() as folder:
        patch.setenv("LMLAB_CACHE", folder)
        yield {
            name: lmlab.train(
                text=TEXT, model="ngram", order=3, tokenizer={"kind": name.split(",")[0], **settings}, split="none"
            )
            for name, settings in TOKENIZERS.items()
        }


def pieces():
    """Texts of every kind of white space, of marks, of nothing but white space, cut at every length."""
    yield GIVEN
    yield from (GIVEN[:end] for end in range(2, len(GIVEN), 7))
    yield from (f"a{space}{space}cat{space}" for space in map(chr, range(1, 0x3001)) if space.isspace())
    yield from ("the", " the", "the ", "  ", "\n", "...", "a\u0301 b", "x" * 100)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("unit", UNITS)
def test_sums_are_exact(models, name, unit):
    texts = list(pieces())
    scores = models[name].score(texts)
    table = scores.by(unit)
    for column in ("bits", "bits_without_spelling"):
        assert sum(table.columns[column]) == pytest.approx(sum(scores.columns[column]), abs=1e-9, rel=1e-13)
    assert sum(table.columns["bits"]) * math.log(2) == pytest.approx(scores.total["total_nats"], rel=1e-12)
    if unit != "token":
        assert sum(table.columns["tokens"]) == len(scores.rows) == scores.total["tokens"]
        assert sum(table.columns["unknown"]) == scores.total["unk_tokens"]
    last = {row["document"]: row["cumulative_bits"] for row in table.rows}
    assert list(last) == list(range(len(texts)))
    assert sum(last.values()) == pytest.approx(sum(table.columns["bits"]), abs=1e-7)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_are_the_runs_of_the_text_as_given(models, name):
    """Where a tokenizer keeps every character; the others give a run without what they drop."""
    for text in pieces():
        *words, end = models[name].score(text).by("word").rows
        assert end["text"] == "<eos>"
        assert (end["start"], end["end"]) == (len(text), len(text))
        assert [text[row["start"] : row["end"]] for row in words] == [row["text"] for row in words]
        if name in ("char", "byte", "bpe", "char, lower case"):
            assert [row["text"] for row in words] == text.removeprefix("\ufeff").split()
            assert [row["word"] for row in words] == list(range(len(words)))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_offsets_are_those_of_the_text_as_given(models, name):
    tokenizer = models[name].tokenizer
    for text in pieces():
        rows = models[name].score(text).rows[:-1]
        bounds = [(row["start"], row["end"]) for row in rows]
        assert all(0 <= start < end <= len(text) for start, end in bounds)
        assert bounds == sorted(bounds)
        for row in rows:
            held = text[row["start"] : row["end"]].replace("\r\n", "\n")
            if not row["text"].startswith("\\x"):
                assert row["text"] in (held, tokenizer.normalise(held)) or row["text"] in tokenizer.spans(held)


@pytest.mark.parametrize("name", ["char", "bpe", "byte"])
def test_the_space_before_a_word_is_the_words_own(models, name):
    """Whether a token holds the space or the space is a token: the surprisal of both is the word's."""
    scores = models[name].score("the  cat saw\n")
    words = scores.by("word").rows
    assert [row["text"] for row in words] == ["the", "cat", "saw", "<eos>"]
    rows = [row for row in scores.rows if 3 <= row["start"] < 8]  # two spaces and cat
    assert words[1]["bits"] == pytest.approx(sum(row["bits"] for row in rows), abs=1e-12)
    assert words[1]["tokens"] == len(rows)
    assert words[-1]["tokens"] == 2  # the line break belongs to <eos>


def test_the_first_word_is_predicted_from_bos(models):
    lm = models["char"]
    logp_1V, _ = lm.model.start([[]])
    (first, *_) = lm.score("t").rows
    assert first["bits"] * math.log(2) == pytest.approx(-float(logp_1V[0, lm.tokenizer.encode("t").ids[0]]))


def test_sentences_end_at_marks_and_line_breaks(models):
    text = 'A cat. "An owl!" Who? 3.5 e.g.x\nthe end…  \n\n Two\n'
    found = [row["text"] for row in models["char"].score(text).by("sentence").rows]
    assert found == ["A cat.", '"An owl!"', "Who?", "3.5 e.g.x", "the end…", "Two"]


def test_several_texts_are_scored_each_on_its_own(models):
    texts = ["the cat", "an owl saw", "wombat"]
    for lm in models.values():
        together = lm.score(texts)
        for number, text in enumerate(texts):
            alone = lm.score(text).rows
            rows = [row for row in together.rows if row["document"] == number]
            assert rows == [near(row, number) for row in alone]
        assert together.total["documents"] == 3
        assert lm.score(iter(texts)).rows == lm.score(tuple(texts)).rows == together.rows


def near(row, number):
    return {**{k: pytest.approx(v) if isinstance(v, float) else v for k, v in row.items()}, "document": number}


def test_a_long_text_in_pieces_keeps_its_offsets(models):
    text = "the cat saw an owl.\n" * (PIECE_CHARS // 20 + 50)
    scores = models["word"].score(text)
    assert len(scores.by("document").rows) == 1
    start, end = (scores.columns[name][-3] for name in ("start", "end"))
    assert (text[start:end], end) == (".", len(text) - 1)


def test_a_record_of_tokens_keeps_them():
    tokenizer = build_tokenizer("word", {"lower": True, "strip_punctuation": True}, [Document("a b c")])
    document = Document("A b , C d", tokens=("A b", ",", "C", "d"))
    located = tokenizer.locate(document)
    assert located.spans == tokenizer.words(document) == ["a b", "c", "d"]
    assert [document.text[s:e] for s, e in zip(located.start_N, located.end_N, strict=True)] == ["A b", "C", "d"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_token_is_located(models, name):
    tokenizer = models[name].tokenizer
    for text in pieces():
        text = corpora.open_text(text, corpora.DataSettings(unit="document", split="none")) if text.strip() else None
        for document in text.documents("all") if text else ():
            located = tokenizer.locate(document)
            assert located.spans == tokenizer.spans(document.text)
            assert len(located.spans) == len(tokenizer.encode(document.text).ids)


# -- spelling ---------------------------------------------------------------------------------------------------------


def test_both_figures_stand_in_every_row(models):
    lm = models["word"]
    scores, plain = lm.score("the wombat saw"), lm.score("the wombat saw", spelling=False)
    row = scores.rows[1]
    assert row["unknown"]
    assert row["bits"] - row["bits_without_spelling"] == pytest.approx(7 * math.log2(257))
    assert [row["bits"] for row in plain.rows] == [row["bits_without_spelling"] for row in scores.rows]
    assert plain.total["perplexity"] == pytest.approx(scores.total["perplexity_unk_as_class"])
    assert "not comparable between vocabularies" in plain.total["protocol"]["unknown"]
    assert plain.total["unk_spelling_nats"] == 0


# -- spans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["char", "byte", "bpe", "word", "code"])
def test_the_surprisal_of_a_span_is_that_of_its_tokens(models, name):
    lm, text = models[name], "the cat saw an owl."
    words = lm.score(text).by("word").rows
    for row in words[:-1]:
        bits = lm.surprisal(text, (row["start"], row["end"]))
        spaces = sum(
            each["bits"] for each in lm.score(text).rows if each["text"] == " " and each["end"] == row["start"]
        )
        assert bits == pytest.approx(row["bits"] - spaces)
    assert lm.surprisal(text) == pytest.approx(sum(row["bits"] for row in words))
    assert lm.surprisal(text, span=(4, 5)) <= lm.surprisal(text, span=(4, 7))


@pytest.mark.parametrize("span", [(3, 99), (-1, 2), (2, 2), (3, 1), (0,), (0, 1, 2), 5, "ab", (0.5, 2), (None, 2), []])
def test_what_is_no_span_is_told(models, span):
    with pytest.raises(SettingError, match=r"span is .*, but must be \(start, end\) with 0 <= start < end <= 7"):
        models["char"].surprisal("the cat", span)


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_table_is_written_as_its_name_says(models, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for table in (models["word"].score(["the cat, é", "an owl"]), models["bpe"].score("a\nb").by("word")):
        for ending in ("csv", "jsonl", "parquet"):
            table.write(tmp_path / f"t.{ending}")
        rows = table.rows
        assert [json.loads(line) for line in (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()] == rows
        assert parquet.read_table(tmp_path / "t.parquet").to_pylist() == rows
        with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
            assert list(csv.DictReader(file)) == [{name: str(value) for name, value in row.items()} for row in rows]
    assert list(models["word"].score("the cat").by("word").table["text"]) == ["the", "cat", "<eos>"]


@pytest.mark.parametrize("name", ["t", "t.txt", "t.CSV", "csv"])
def test_a_name_that_says_no_format_is_told(models, tmp_path, name):
    with pytest.raises(UsageError, match=r"is none of \.csv, \.jsonl, \.parquet: let the name end"):
        models["char"].score("a").write(tmp_path / name)
    with pytest.raises(UnknownNameError, match="no unit is called 'line'"):
        models["char"].score("a").by("line")


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, 5, b"text", {"text": "a"}, bytearray(b"a"), object()])
def test_what_is_no_text_is_told(models, wrong):
    for call in (models["char"].score, models["char"].surprisal):
        with pytest.raises(SettingError, match=r"the text is .*, but must be a string"):
            call(wrong)


@pytest.mark.parametrize(("wrong", "number"), [(["a", None], 1), ([1], 0), ([b"a"], 0), ([["a"]], 0), (np.ones(2), 0)])
def test_what_is_no_text_among_texts_is_told(models, wrong, number):
    with pytest.raises(SettingError, match=rf"text {number} is .*, but must be a string: leave it out"):
        models["char"].score(wrong)


@pytest.mark.parametrize("wrong", ["", [], [""], ["a", ""], (), "\ufeff"])
def test_what_holds_no_text_is_told(models, wrong):
    with pytest.raises(EmptyDataError, match=r"text"):
        models["char"].score(wrong)


def test_a_text_and_a_source_are_too_much(models):
    with pytest.raises(UsageError, match="leave one of them out"):
        models["char"].score("a", on="b.txt")


def test_what_is_no_number_is_refused(models):
    lm = lmlab.train(text=TEXT, model="ngram", order=1)
    lm.model.trie.levels[0].logp_G[:] = math.nan
    with pytest.raises(LmlabError, match="its weights are damaged"):
        lm.score("the cat")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_alternatives_are_the_likeliest_in_each_place(models, name, tmp_path):
    lm, text = models[name], "the cat sat on"
    scores = lm.score(text, alternatives=3)
    for row in scores.rows:
        told = row["alternatives"]
        assert [each["p"] for each in told] == sorted((each["p"] for each in told), reverse=True)
        if row["rank"] <= 3 and not row["unknown"]:
            assert any(2 ** -row["bits_without_spelling"] == pytest.approx(each["p"], rel=1e-5) for each in told)
    first = lm.next_tokens("", k=1)
    assert scores.rows[0]["alternatives"][0]["p"] == pytest.approx(*first.values(), rel=1e-5)
    for ending in (".csv", ".jsonl", ".parquet"):
        scores.write(tmp_path / f"scores{ending}")
    written = next(csv.DictReader((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines(keepends=True)))
    assert json.loads(written["alternatives"]) == scores.rows[0]["alternatives"]
    assert "%" in scores._repr_html_()
    with pytest.raises(SettingError):
        lm.score(text, alternatives=-1)


@pytest.mark.parametrize("name", ["words_o2", "words_o4_prune001", "words_o5"])
def test_the_linguists_table_is_what_kenlms_module_says_word_by_word(name, tmp_path):
    golden = Path(__file__).parents[1] / "golden"
    told = json.loads(gzip.decompress((golden / "scores.json.gz").read_bytes()))[name]
    lm = import_arpa(golden / f"{name}.arpa.gz", out=tmp_path / "run")
    marks = {"<s>", "</s>", "<unk>"}  # are words of a text to us, and ends and beginnings to KenLM
    asked = [each for each in told if each["sentence"].split() and not marks & set(each["sentence"].split())]
    table = lm.score([each["sentence"] for each in asked], spelling=False).by("word")
    bits = np.split(np.asarray(table.columns["bits"]), np.flatnonzero(np.diff(table.columns["document"])) + 1)
    assert len(asked) == len(bits) > 10
    for each, bits_W in zip(asked, bits, strict=True):
        marked = each["full"][0]  # between <s> and </s>
        assert bits_W == pytest.approx([-logp * math.log2(10) for logp, _, _ in marked], abs=1e-5), each["sentence"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_without_ranks_all_else_is_told(models, name):
    with_ranks, without = (models[name].score(TEXT, ranks=ranks) for ranks in (True, False))
    assert set(with_ranks.columns) - set(without.columns) == {"rank"}
    assert without.columns["bits"] == pytest.approx(with_ranks.columns["bits"], abs=1e-6)
    assert without.by("word").rows[3]["bits"] == pytest.approx(with_ranks.by("word").rows[3]["bits"], abs=1e-6)
    assert "rank" not in without._repr_html_().split("</style>")[1]
