import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lmlab.codecs import build
from lmlab.codecs.base import FILE
from lmlab.corpora.document import Document

ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=50)


@pytest.mark.parametrize("lower", [False, True])
@settings(max_examples=40)
@given(text=ASSIGNED, train=ASSIGNED)
def test_agrees_with_the_tokenizers_library(tmp_path_factory, lower, text, train):
    codec = build("char", {"lower": lower}, [Document(train + "aΣİ")])
    folder = tmp_path_factory.mktemp("char")
    codec.save(folder)
    reference = Tokenizer.from_file(str(folder / FILE))
    for piece in (text, train, "<bos>aΣaİ[PAD]\r\n"):
        assert reference.encode(piece).ids == codec.encode(piece).ids.tolist()


def test_lower_is_declared_and_done():
    codec = build("char", {"lower": True}, [Document("AbÉ")])
    assert codec.decode(codec.encode("aBé").ids) == "abé" == codec.normalise("aBé")
    assert "lower case" in codec.normalisation


def test_counts_run_over_documents():
    pieces = [Document("ab" * 600_000, last=False), Document("b"), Document("c" * 600_001)]
    assert build("char", {"vocab_size": 6}, pieces).tokens[4:] == ("b", "c")


def test_a_character_beyond_the_first_plane():
    codec = build("char", {}, [Document("a😀")])
    assert codec.encode("😀a").ids.tolist() == [5, 4]
    assert codec.decode([5, 5]) == "😀😀"
