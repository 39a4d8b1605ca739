from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer

from lmlab.tokens import build_tokenizer
from lmlab.tokens.base import FILE
from lmlab.vocabulary import EOS, UNK

CODEC = build_tokenizer("byte", {}, [])


def test_byte_b_is_id_four_plus_b():
    assert CODEC.encode("A\x00é").ids.tolist() == [4 + 65, 4, 4 + 0xC3, 4 + 0xA9]


@given(text=st.text(max_size=50))
def test_agrees_with_the_tokenizers_library(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("byte")
    CODEC.save(folder)
    reference = HFTokenizer.from_file(str(folder / FILE))
    ids = reference.encode(text).ids
    assert ids == CODEC.encode(text).ids.tolist()
    assert reference.decode(ids) == text


def test_broken_utf8_is_replaced_and_silent_ids_do_not_part_a_character():
    first, second = CODEC.encode("é").ids.tolist()
    assert CODEC.decode([first]) == "\ufffd"
    assert CODEC.decode([first, EOS, second]) == "é"
    assert CODEC.decode([UNK, first, second]) == "\ufffdé"


def test_part_of_a_character_is_shown_escaped():
    assert CODEC.spans("né") == ["n", "\\xc3", "\\xa9"]
