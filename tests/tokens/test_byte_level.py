import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import pre_tokenizers

from lmlab.corpora.document import Document
from lmlab.tokens import build_tokenizer, byte_level
from lmlab.tokens.base import FILE
from lmlab.vocabulary import EOS, SPECIALS, UNK

TEXT = "the theme of the thesis: they're there, 12 1212 [PAD]<bos>.\n" * 9
BPE = build_tokenizer("bpe", {"vocab_size": 300}, [Document(TEXT)])
BYTE = build_tokenizer("byte", {}, [])


# -- both --------------------------------------------------------------------------------------------------------------


def test_byte_symbols_are_the_librarys():
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    symbols = byte_level.byte_symbols()
    assert set(symbols) == set(pre_tokenizers.ByteLevel.alphabet())
    for text in ("\x00 ~\x7f\n", "é\xad\xa0ÿ", "😀"):
        [(spelled, _)] = splitter.pre_tokenize_str(text)
        assert spelled == "".join(symbols[byte] for byte in text.encode())


# -- byte --------------------------------------------------------------------------------------------------------------


def test_byte_b_is_id_four_plus_b():
    assert BYTE.encode("A\x00é").ids.tolist() == [4 + 65, 4, 4 + 0xC3, 4 + 0xA9]


@given(text=st.text(max_size=50))
def test_bytes_agree_with_the_tokenizers_library(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("byte")
    BYTE.save(folder)
    reference = HFTokenizer.from_file(str(folder / FILE))
    ids = reference.encode(text).ids
    assert ids == BYTE.encode(text).ids.tolist()
    assert reference.decode(ids) == text


def test_broken_utf8_is_replaced_and_silent_ids_do_not_part_a_character():
    first, second = BYTE.encode("é").ids.tolist()
    assert BYTE.decode([first]) == "\ufffd"
    assert BYTE.decode([first, EOS, second]) == "é"
    assert BYTE.decode([UNK, first, second]) == "\ufffdé"


def test_part_of_a_character_is_shown_escaped():
    assert BYTE.spans("né") == ["n", "\\xc3", "\\xa9"]


# -- bpe ---------------------------------------------------------------------------------------------------------------


@given(text=st.text(st.sampled_from(" \n\t'the12ré.[PAD]<bos>\u2003\u3000\x85\x1c") | st.characters(), max_size=60))
def test_agrees_with_the_tokenizers_library_however_the_text_is_cut(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("bpe")
    BPE.save(folder)
    reference = HFTokenizer.from_file(str(folder / FILE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_level, "SLICE_CHARS", 2)
        ids = BPE.encode(text.encode("utf-8", "replace").decode()).ids.tolist()
    assert ids == reference.encode(text.encode("utf-8", "replace").decode()).ids
    assert reference.decode(ids) == BPE.decode(ids)


def test_the_most_frequent_pairs_are_merged_and_training_repeats():
    assert "the" in BPE.tokens
    assert len(BPE.encode(TEXT).ids) < len(TEXT) / 2
    again = build_tokenizer("bpe", {"vocab_size": 300}, [Document(TEXT)])
    assert again.tokens == BPE.tokens


def test_no_merge_ever_spells_a_special():
    tokenizer = build_tokenizer("bpe", {}, [Document("".join(SPECIALS) * 500 + " ".join(SPECIALS) * 500)])
    assert not set(SPECIALS) & set(tokenizer.tokens[4:])
    assert min(tokenizer.encode("".join(SPECIALS)).ids) >= 4


def test_merges_are_learnt_from_the_first_characters_alone():
    documents = [Document("ab" * 50, last=False), Document("cd" * 50)]
    assert "cd" in build_tokenizer("bpe", {}, documents).tokens
    first = build_tokenizer("bpe", {"train_chars": 100}, documents).tokens
    assert "ab" in first
    assert "cd" not in first
    assert (
        build_tokenizer("bpe", {"train_chars": None}, documents).tokens == build_tokenizer("bpe", {}, documents).tokens
    )


def test_long_texts_are_learnt_in_slices_and_errors_of_the_reader_pass_through():
    long = Document(" abc" * byte_level.SLICE_CHARS)
    assert "Ġabc" in build_tokenizer("bpe", {}, [long]).tokens

    def failing():
        yield long
        raise KeyError("reader")

    with pytest.raises(KeyError, match="reader"):
        build_tokenizer("bpe", {}, failing())
