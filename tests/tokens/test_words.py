import json

import pytest

from lmlab.corpora.document import Document
from lmlab.tokens import build_tokenizer, words
from lmlab.tokens.base import FILE
from lmlab.vocabulary import UNK


def test_counting_forgets_the_rarest_only(monkeypatch):
    monkeypatch.setattr(words, "MOST_TYPES", 50)
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
