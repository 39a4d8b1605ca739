import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer

from lmlab.corpora.document import Document
from lmlab.tokens import bpe, build_tokenizer
from lmlab.tokens.base import FILE
from lmlab.vocabulary import SPECIALS

TEXT = "the theme of the thesis: they're there, 12 1212 [PAD]<bos>.\n" * 9
CODEC = build_tokenizer("bpe", {"vocab_size": 300}, [Document(TEXT)])


@given(text=st.text(st.sampled_from(" \n\t'the12ré.[PAD]<bos>\u2003\u3000\x85\x1c") | st.characters(), max_size=60))
def test_agrees_with_the_tokenizers_library_however_the_text_is_cut(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("bpe")
    CODEC.save(folder)
    reference = HFTokenizer.from_file(str(folder / FILE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "SLICE_CHARS", 2)
        ids = CODEC.encode(text.encode("utf-8", "replace").decode()).ids.tolist()
    assert ids == reference.encode(text.encode("utf-8", "replace").decode()).ids
    assert reference.decode(ids) == CODEC.decode(ids)


def test_the_most_frequent_pairs_are_merged_and_training_repeats():
    assert "the" in CODEC.tokens
    assert len(CODEC.encode(TEXT).ids) < len(TEXT) / 2
    again = build_tokenizer("bpe", {"vocab_size": 300}, [Document(TEXT)])
    assert again.tokens == CODEC.tokens


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
    long = Document(" abc" * bpe.SLICE_CHARS)
    assert "Ġabc" in build_tokenizer("bpe", {}, [long]).tokens

    def failing():
        yield long
        raise KeyError("reader")

    with pytest.raises(KeyError, match="reader"):
        build_tokenizer("bpe", {}, failing())
