"""Tokenizers of Hugging Face models: text and back as the library's own, bytes a token, special tokens in texts."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from lmlab.corpora.document import Document
from lmlab.errors import UsageError
from lmlab.tokens.byte_level import byte_symbols
from lmlab.tokens.hf import SHIFT, HuggingFaceTokenizer
from lmlab.tokens.stream import TextStream
from lmlab.vocabulary import BOS, EOS, PAD, UNK
from tests.huggingface import byte_tokenizer

ENDS = ["<s>", "</s>", "<unk>"]


def _byte_level():
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate([*byte_symbols(), "th"])}, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(ENDS[:2])
    return tokenizer


def _sentencepiece():
    """As Llama's: a blank is a mark before a word, what is unknown is spelled in bytes."""
    tokens = [*ENDS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdeht", "▁a", "th"]
    merges = [("▁", "a"), ("t", "h")]
    tokenizer = Tokenizer(
        models.BPE({token: id for id, token in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(ENDS)
    return tokenizer


def _words():
    tokenizer = Tokenizer(models.WordLevel({token: id for id, token in enumerate([*ENDS, "the", "cat"])}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(ENDS)
    return tokenizer


def _pieces():
    tokens = [*ENDS, "the", "cat", "##s", "##at"]
    tokenizer = Tokenizer(models.WordPiece({token: id for id, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(ENDS)
    return tokenizer


KINDS = {"byte-level": _byte_level, "sentencepiece": _sentencepiece, "words": _words, "pieces": _pieces}
TEXTS = st.text(alphabet=st.sampled_from("atheb catslé漢 \n<s>"), max_size=20)


def make(kind, extra=0):
    native = KINDS[kind]()
    return HuggingFaceTokenizer(native, native.get_vocab_size() + extra, [native.token_to_id("</s>")])


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@example(text="the cats <s> </s>")
@example(text="")
def test_a_text_is_read_and_spelled_as_by_the_library(kind, text):
    tokenizer = make(kind)
    ids = tokenizer.encode(text).ids.tolist()
    assert not {PAD, BOS, EOS} & set(ids), "a text encodes to no special token"
    stream = TextStream(tokenizer)
    assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)
    assert len(tokenizer.spans(text)) == len(ids)
    if UNK not in ids:
        native = [id - SHIFT for id in ids]
        assert tokenizer.decode(ids) == tokenizer.reference().decode(native, skip_special_tokens=False)
    if not tokenizer.normalisation:
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_silent_and_unused_ids_too(kind):
    tokenizer = make(kind, extra=3)
    native = tokenizer.reference()
    silent = [PAD, BOS, EOS, SHIFT + native.token_to_id("<s>"), tokenizer.vocab_size - 1]
    assert tokenizer.decode(silent) == ""
    assert tokenizer.token_text(EOS) == "<eos>"
    with pytest.raises(UsageError, match="outside"):
        tokenizer.decode([tokenizer.vocab_size])


def test_unknown_words_are_counted_with_their_bytes():
    encoded = make("words").encode("the naïve cat")
    assert encoded.ids.tolist()[1] == UNK
    assert encoded.unknown_bytes == len("naïve".encode())
    assert make("words").spans("the naïve cat")[1] == "naïve"
    assert make("words").normalise("the  cat") == "the cat"


def test_added_tokens_that_are_not_special_are_text():
    native = _byte_level()
    native.add_tokens([AddedToken("naïve")])
    tokenizer = HuggingFaceTokenizer(native, native.get_vocab_size(), [native.token_to_id("</s>")])
    assert tokenizer.spans("a naïve") == ["a", " ", "naïve"]


def test_padding_and_cutting_of_the_native_tokenizer_are_put_off():
    native = _byte_level()
    native.enable_padding(length=50)
    native.enable_truncation(2)
    assert HuggingFaceTokenizer(native, 300, [257]).encode("abcd").ids.shape == (4,)


def test_it_is_not_trained():
    with pytest.raises(UsageError, match="is not trained"):
        HuggingFaceTokenizer.train([], None)


def test_parts_of_a_character_stand_where_it_does():
    tokenizer = HuggingFaceTokenizer(byte_tokenizer().backend_tokenizer, 277, [276])
    located = tokenizer.locate(Document("naïve Zoë"))
    assert located.start_N.tolist() == [0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 8]
    assert located.end_N.tolist() == [1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 9]
