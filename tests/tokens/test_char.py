import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer

from lmlab.corpora.document import Document
from lmlab.tokens import build_tokenizer
from lmlab.tokens.base import FILE

ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=50)


@pytest.mark.parametrize("lower", [False, True])
@settings(max_examples=40)
@given(text=ASSIGNED, train=ASSIGNED)
def test_agrees_with_the_tokenizers_library(tmp_path_factory, lower, text, train):
    tokenizer = build_tokenizer("char", {"lower": lower}, [Document(train + "aΣİ")])
    folder = tmp_path_factory.mktemp("char")
    tokenizer.save(folder)
    reference = HFTokenizer.from_file(str(folder / FILE))
    for piece in (text, train, "<bos>aΣaİ[PAD]\r\n"):
        assert reference.encode(piece).ids == tokenizer.encode(piece).ids.tolist()


def test_lower_is_declared_and_done():
    tokenizer = build_tokenizer("char", {"lower": True}, [Document("AbÉ")])
    assert tokenizer.decode(tokenizer.encode("aBé").ids) == "abé" == tokenizer.normalise("aBé")
    assert "lower case" in tokenizer.normalisation


def test_counts_run_over_documents():
    pieces = [Document("ab" * 600_000, last=False), Document("b"), Document("c" * 600_001)]
    assert build_tokenizer("char", {"vocab_size": 6}, pieces).tokens[4:] == ("b", "c")


def test_a_character_beyond_the_first_plane():
    tokenizer = build_tokenizer("char", {}, [Document("a😀")])
    assert tokenizer.encode("😀a").ids.tolist() == [5, 4]
    assert tokenizer.decode([5, 5]) == "😀😀"
