import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer

from lmlab.corpora.document import Document
from lmlab.kernels import engine
from lmlab.tokens import build_tokenizer, word
from lmlab.tokens.base import FILE
from lmlab.tokens.word import CLOSERS, OPENERS
from lmlab.vocabulary import BOS, EOS, UNK

TRICKY = st.text(
    st.sampled_from("ab1_'\u2019\u2018-.,!([)\"“” \n\t\r\0é\u0301%ि\u200d\ufe0fΣ😀") | st.characters(), max_size=40
)
SETTINGS = st.fixed_dictionaries(
    {"split": st.sampled_from(["punct", "space"]), "lower": st.booleans(), "strip_punctuation": st.booleans()}
)


def make(text="a", **settings):
    return build_tokenizer("word", settings, [Document(text)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, well-known O\u2019Neill!", ["Don't", "stop", ",", "well-known", "O\u2019Neill", "!"]),
        ("a--b 'tis dogs' x-", ["a", "-", "-", "b", "'", "tis", "dogs", "'", "x", "-"]),
        ("one\n\ntwo\r\nthree", ["one", "\n", "\n", "two", "\n", "three"]),
        ("3.14 snake_case", ["3", ".", "14", "snake_case"]),
        ("हिन्दी cafe\u0301 😀", ["हिन्दी", "cafe\u0301", "😀"]),
    ],
)
def test_words_marks_and_newlines(text, words):
    assert make().tokenise(text) == words


def test_space_splits_at_the_white_space_of_kenlm_alone():
    text = "a,b\0c\td\ne\rf g\x0bh\x0ci\u00a0j\u2003k"
    assert make(split="space").tokenise(text) == ["a,b", "c", "d", "e", "f", "g", "h", "i\u00a0j\u2003k"]


def test_strip_punctuation_keeps_words_and_newlines():
    assert make(strip_punctuation=True).tokenise("Well, don't (go)\n- now!") == ["Well", "don't", "go", "\n", "now"]
    assert make(strip_punctuation=True, split="space").tokenise("Well, don't\0(go)") == ["Well", "dont", "go"]


def test_settings_apply_to_the_tokens_of_a_record():
    record = Document("A , b", tokens=("A", ",", "b"))
    assert make(lower=True, strip_punctuation=True).words(record) == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["Well", ",", "he", "(", "Bob", ")", "said", ":", "\n", "no", "."], "Well, he (Bob) said:\nno."),
        (["“", "go", "”", ",", "5", "%", "…"], "“go”, 5%…"),
        (["a", "-", "b", "'", "c", "\u2019", "d"], "a - b ' c\u2019 d"),
    ],
)
def test_gaps_are_put_back_by_rule(words, text):
    tokenizer = make()
    assert tokenizer.detokenise(words) == text
    assert tokenizer.tokenise(text) == words


@given(settings=SETTINGS, text=TRICKY)
def test_detokenised_words_split_into_the_same_words(settings, text):
    tokenizer = make(**settings)
    words = tokenizer.tokenise(text)
    again = tokenizer.detokenise(words)
    assert tokenizer.tokenise(again) == words


@given(words=st.lists(st.sampled_from([*sorted(OPENERS | CLOSERS), "'", "-", '"', "a", "b-c", "d\u2019e", "\u0301"])))
def test_any_order_of_words_survives_detokenising(words):
    tokenizer = make()
    assert tokenizer.tokenise(tokenizer.detokenise(words)) == words


@given(settings=SETTINGS, text=TRICKY)
def test_decode_is_normalise_under_every_setting(settings, text):
    tokenizer = make(text + " a", **settings)
    specials = {"[PAD]", "[UNK]", "<bos>", "<eos>"}
    if not specials & set(tokenizer.tokenise(text)):
        assert tokenizer.decode(tokenizer.encode(text).ids) == tokenizer.normalise(text)


@given(settings=SETTINGS, train=TRICKY, text=TRICKY)
def test_agrees_with_the_tokenizers_library(tmp_path_factory, settings, train, text):
    tokenizer = make(train + " a", **settings)
    folder = tmp_path_factory.mktemp("word")
    tokenizer.save(folder)
    reference = HFTokenizer.from_file(str(folder / FILE))
    ids = reference.encode(tokenizer.tokenise(text), is_pretokenized=True).ids
    assert ids == tokenizer.encode(text).ids.tolist()


def test_every_setting_declares_what_it_changes():
    assert "White space but newlines" in make().normalisation
    assert "newlines" in make(split="space").normalisation
    assert re.search("lower case; punctuation is dropped.$", make(lower=True, strip_punctuation=True).normalisation)


# -- what all tokenizers of words share -------------------------------------------------------------------------------


def test_counting_forgets_the_rarest_only(monkeypatch):
    monkeypatch.setattr(word, "MOST_TYPES", 50)
    documents = [Document(f"often rare{i} also{i % 40} often") for i in range(500)]
    tokenizer = build_tokenizer("word", {"vocab_size": 20}, documents)
    assert tokenizer.tokens[4] == "often"
    assert not any(token.startswith("rare") for token in tokenizer.tokens)
    assert build_tokenizer("word", {"vocab_size": None}, documents).vocab_size == 4 + 1 + 40 + 500


@pytest.mark.parametrize("kind", ["word", "code"])
def test_tokens_of_a_record_are_taken_as_they_are(kind):
    record = Document("if a b :", tokens=("if", "a b", "", ":", "<bos>", "\ud800"))
    tokenizer = build_tokenizer(kind, {}, [record])
    assert set(tokenizer.tokens[4:]) == {"if", "a b", ":", "\ufffd"}
    encoded = tokenizer.encode_document(record)
    assert [tokenizer.token_text(id) for id in encoded.ids] == ["if", "a b", ":", "[UNK]", "\ufffd"]
    assert (encoded.unknown_tokens, encoded.unknown_bytes) == (1, len("<bos>"))


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_tokenizers_without_words_read_the_text_of_a_record(kind):
    record = Document("if a", tokens=("if", "a"))
    tokenizer = build_tokenizer(kind, {}, [record])
    assert tokenizer.encode_document(record).ids.tolist() == tokenizer.encode("if a").ids.tolist()


@pytest.mark.parametrize("special", ["[PAD]", "[UNK]", "<bos>", "<eos>"])
def test_a_word_spelled_like_a_special_is_unknown_here_and_in_the_library(special):
    tokenizer = build_tokenizer("word", {"split": "space"}, [Document(f"{special} a {special}")])
    assert tokenizer.tokens[4:] == ("a",)
    assert tokenizer.encode(special).ids.tolist() == [UNK]
    assert tokenizer.reference().encode([special, "a"], is_pretokenized=True).ids == [UNK, 4]


@pytest.mark.parametrize("kind", ["word", "code"])
def test_the_file_is_what_the_library_would_write(kind, tmp_path):
    tokenizer = build_tokenizer(kind, {}, [Document('if "a" é b')])
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / FILE).read_bytes()) == json.loads(tokenizer.reference().to_str())


@given(st.lists(st.text("ab \t\n\xa0é.", max_size=12), max_size=6), st.booleans())
def test_documents_are_encoded_together_as_alone(texts, kernels):
    tokenizer = build_tokenizer("word", {"split": "space"}, [Document("a b ab é. a.b")])
    documents = list(map(Document, texts))
    with engine.only(kernels):
        together = tokenizer.encode_documents(documents)
    alone = [tokenizer.encode(text) for text in texts]
    ids = [id for encoded in alone for id in (BOS, *encoded.ids.tolist(), EOS)]
    assert together.ids_N.tolist() == ids
    assert together.length_D.tolist() == [len(encoded.ids) for encoded in alone]
    assert together.unknown_tokens_D.tolist() == [encoded.unknown_tokens for encoded in alone]
    assert together.unknown_bytes_D.tolist() == [encoded.unknown_bytes for encoded in alone]


def test_words_with_white_space_in_them_are_found_one_document_at_a_time():
    tokenizer = build_tokenizer("word", {"split": "space"}, [Document("", tokens=("a b", "b"))])
    with engine.only(True):
        assert tokenizer.encode_documents([Document("b a b")]).ids_N.tolist() == [
            BOS,
            *tokenizer.encode("b a b").ids,
            EOS,
        ]
