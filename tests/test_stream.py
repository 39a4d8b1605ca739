import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.codecs import build
from lmlab.corpora.document import Document
from lmlab.errors import UsageError
from lmlab.stream import TextStream
from lmlab.vocab import BOS, EOS, UNK

TEXT = "Well, (don't) go\nto 'é 😀 x = \"a\\n\" ' é😀é😀"
CODECS = {kind: build(kind, {}, [Document(TEXT)]) for kind in ("char", "byte", "word", "code", "bpe")}
CODECS["space"] = build("word", {"split": "space"}, [Document(TEXT)])


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_the_pieces_join_to_what_decode_gives(name, data):
    codec = CODECS[name]
    id = st.integers(0, codec.vocab_size - 1)
    if name == "byte":
        id |= st.sampled_from([4 + byte for byte in "é😀".encode()])
    ids = data.draw(st.lists(id, max_size=40))
    stream = TextStream(codec)
    assert "".join(map(stream.push, ids)) + stream.flush() == codec.decode(ids)


def push(codec, ids):
    stream = TextStream(codec)
    return [stream.push(int(id)) for id in ids], stream.flush()


def test_an_unfinished_character_is_held_back():
    ids = CODECS["byte"].encode("a😀").ids
    assert push(CODECS["byte"], ids) == (["a", "", "", "", "😀"], "")
    assert push(CODECS["byte"], ids[:-1]) == (["a", "", "", ""], "\ufffd")


def test_words_come_with_the_gap_before_them():
    codec = CODECS["word"]
    [well, comma, newline] = codec.encode("Well,\n").ids
    ids = [BOS, well, EOS, well, comma, well, newline, well, UNK]
    assert push(codec, ids) == (["", "Well", "", " Well", ",", " Well", "\n", "Well", " [UNK]"], "")


def test_after_flush_the_stream_is_new():
    stream = TextStream(CODECS["word"])
    [well] = CODECS["word"].encode("Well").ids.tolist()
    assert [stream.push(well), stream.flush(), stream.push(well)] == ["Well", "", "Well"]


@pytest.mark.parametrize("id", [-1, 260])
def test_an_id_outside_the_vocabulary_is_refused(id):
    with pytest.raises(UsageError, match=f"id {id} is outside"):
        TextStream(CODECS["byte"]).push(id)
