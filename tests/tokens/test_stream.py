import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.corpora.document import Document
from lmlab.errors import UsageError
from lmlab.tokens import build_tokenizer
from lmlab.tokens.stream import TextStream
from lmlab.vocabulary import BOS, EOS, UNK

TEXT = "Well, (don't) go\nto 'é 😀 x = \"a\\n\" ' é😀é😀"
TOKENIZERS = {kind: build_tokenizer(kind, {}, [Document(TEXT)]) for kind in ("char", "byte", "word", "code", "bpe")}
TOKENIZERS["space"] = build_tokenizer("word", {"split": "space"}, [Document(TEXT)])


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_the_pieces_join_to_what_decode_gives(name, data):
    tokenizer = TOKENIZERS[name]
    id = st.integers(0, tokenizer.vocab_size - 1)
    if name == "byte":
        id |= st.sampled_from([4 + byte for byte in "é😀".encode()])
    ids = data.draw(st.lists(id, max_size=40))
    stream = TextStream(tokenizer)
    assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)


def push(tokenizer, ids):
    stream = TextStream(tokenizer)
    return [stream.push(int(id)) for id in ids], stream.flush()


def test_an_unfinished_character_is_held_back():
    ids = TOKENIZERS["byte"].encode("a😀").ids
    assert push(TOKENIZERS["byte"], ids) == (["a", "", "", "", "😀"], "")
    assert push(TOKENIZERS["byte"], ids[:-1]) == (["a", "", "", ""], "\ufffd")


def test_words_come_with_the_gap_before_them():
    tokenizer = TOKENIZERS["word"]
    [well, comma, newline] = tokenizer.encode("Well,\n").ids
    ids = [BOS, well, EOS, well, comma, well, newline, well, UNK]
    assert push(tokenizer, ids) == (["", "Well", "", " Well", ",", " Well", "\n", "Well", " [UNK]"], "")


def test_after_flush_the_stream_is_new():
    stream = TextStream(TOKENIZERS["word"])
    [well] = TOKENIZERS["word"].encode("Well").ids.tolist()
    assert [stream.push(well), stream.flush(), stream.push(well)] == ["Well", "", "Well"]


@pytest.mark.parametrize("id", [-1, 260])
def test_an_id_outside_the_vocabulary_is_refused(id):
    with pytest.raises(UsageError, match=f"id {id} is outside"):
        TextStream(TOKENIZERS["byte"]).push(id)
