import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.codecs import build, coverage, load
from lmlab.codecs.base import FILE, clean, lower, vocabulary
from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError, EmptyDataError, SettingError, UnknownNameError, UsageError
from lmlab.registry import names
from lmlab.vocab import BOS, EOS, PAD, SPECIALS, UNK

TEXT = "To be, or not to be: that is\nthe question. [PAD] [UNK] <bos> <eos> def f(x): return 'é' # 😀\n"
KINDS = ["bpe", "byte", "char", "code", "word"]
EXACT = ["bpe", "byte", "char"]


def make(kind, **options):
    return build(kind, options, [Document(TEXT)])


def test_every_registered_codec_is_tested_here():
    assert set(names("codec")) >= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_specials_have_the_same_ids_and_names_everywhere(kind):
    codec = make(kind)
    assert [codec.token_text(id) for id in (PAD, UNK, BOS, EOS)] == list(SPECIALS)
    assert codec.vocab_size == len({codec.tokens[id] for id in range(codec.vocab_size)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", SPECIALS)
def test_a_special_spelled_in_the_text_is_plain_text(kind, special):
    codec = make(kind)
    encoded = codec.encode(f"be {special} or")
    assert min(encoded.ids) >= len(SPECIALS)
    assert encoded.unknown_bytes == 0
    again = codec.decode(encoded.ids)
    assert again.replace(" ", "") == f"be{special}or"


@pytest.mark.parametrize("kind", KINDS)
def test_silent_specials_decode_to_nothing_and_unknown_is_seen(kind):
    codec = make(kind)
    be = codec.encode("be").ids.tolist()
    assert codec.decode([BOS, *be, EOS, PAD, PAD]) == "be"
    assert codec.decode([UNK]) == ("[UNK]" if kind in ("word", "code") else "\ufffd")
    assert codec.decode([]) == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("id", [-1, 10**6])
def test_decode_refuses_ids_outside_the_vocabulary(kind, id):
    with pytest.raises(UsageError, match=f"id {id} is outside"):
        make(kind).decode([5, id])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(text=st.text(st.characters(), max_size=60))  # surrogates too
def test_encode_never_fails_and_spans_stand_behind_every_id(kind, text):
    codec = make(kind)
    encoded = codec.encode(text)
    assert encoded.ids.dtype == np.uint32
    assert len(codec.spans(text)) == len(encoded.ids)
    assert not set(encoded.ids.tolist()) & {PAD, BOS, EOS}
    codec.decode(encoded.ids).encode()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(text=st.text(max_size=60))
def test_known_text_comes_back_as_declared(kind, text):
    codec = build(kind, {}, [Document(text), Document("a")])
    ids = codec.encode(text).ids
    assert UNK not in ids
    again = codec.decode(ids)
    assert again == codec.normalise(text)
    assert codec.encode(again).ids.tolist() == ids.tolist()
    if kind in EXACT:
        assert again == text
        assert codec.normalisation == ""
    else:
        assert codec.normalisation


@pytest.mark.parametrize("kind", KINDS)
def test_ids_point_at_their_spans(kind):
    codec = make(kind)
    for id, span in zip(codec.encode(TEXT).ids, codec.spans(TEXT), strict=True):
        assert codec.token_text(id) == span


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_give_the_same_codec(kind, tmp_path):
    codec = make(kind)
    codec.save(tmp_path)
    again = load(tmp_path, kind, codec.settings.dump())
    assert again.tokens == codec.tokens
    assert again.encode(TEXT).ids.tolist() == codec.encode(TEXT).ids.tolist()
    first = (tmp_path / FILE).read_bytes()
    again.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace("[PAD]", "[MASK]"),
        lambda text: text.replace(": 7", ": 7000"),
        lambda text: json.dumps(json.loads(text) | {"model": {"vocab": {name: i for i, name in enumerate("abcdef")}}}),
    ],
)
def test_a_damaged_file_is_told(kind, damage, tmp_path):
    make(kind).save(tmp_path)
    path = tmp_path / FILE
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ArtifactError, match=FILE):
        load(tmp_path, kind, {})


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_told(kind, tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        load(tmp_path, kind, {})


@pytest.mark.parametrize(("saved", "loaded"), [("word", "char"), ("char", "bpe"), ("bpe", "byte"), ("char", "byte")])
def test_a_file_of_another_kind_is_refused(saved, loaded, tmp_path):
    make(saved, **({"vocab_size": 300} if saved == "bpe" else {})).save(tmp_path)
    with pytest.raises(ArtifactError, match="kind it was saved"):
        load(tmp_path, loaded, {})


@pytest.mark.parametrize("kind", ["char", "word", "code"])
def test_vocabulary_is_ordered_by_count_then_spelling_and_cut(kind):
    documents = [Document("b b b"), Document("d c c a a")]
    codec = build(kind, {}, documents)
    assert [token for token in codec.tokens[4:] if token != " "] == ["b", "a", "c", "d"]
    assert "d" not in build(kind, {"min_count": 2}, documents).tokens
    assert build(kind, {"vocab_size": 6}, documents).vocab_size == 6


@pytest.mark.parametrize("kind", ["char", "word", "code"])
def test_unknown_tokens_are_counted_in_bytes(kind):
    codec = build(kind, {}, [Document("a b c")])
    encoded = codec.encode("a 😀 b é c")
    assert encoded.unknown_tokens == 2
    assert encoded.unknown_bytes == 4 + 2
    assert codec.encode("\ud800").unknown_bytes == 3  # read as U+FFFD


@pytest.mark.parametrize("kind", ["char", "word", "code"])
def test_no_training_text_is_an_error(kind):
    with pytest.raises(EmptyDataError, match="no token occurs min_count=1"):
        build(kind, {}, [])


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_bytes_need_no_training_text(kind):
    codec = build(kind, {}, [])
    assert codec.vocab_size == 260
    assert codec.decode(codec.encode(TEXT).ids) == TEXT


def test_settings_come_as_text_and_are_checked():
    assert build("word", {"vocab_size": "6", "lower": "true"}, [Document("A b c")]).vocab_size == 6
    with pytest.raises(SettingError, match="vocab_size is 4"):
        make("char", vocab_size=4)
    with pytest.raises(UnknownNameError, match="min_count"):
        make("word", mincount=4)
    with pytest.raises(UnknownNameError, match="did you mean 'word'"):
        make("wrod")


def test_coverage_counts_by_hand():
    codec = build("word", {}, [Document("a b c")])
    result = coverage(codec, [Document("a a déjà"), Document("b vu")])
    assert (result.tokens, result.unknown_tokens, result.unknown_bytes, result.types) == (5, 2, 6 + 2, 2)
    assert result.share == pytest.approx(3 / 5)
    assert coverage(codec, []).share == 1


def test_an_empty_vocabulary_says_what_to_lower():
    with pytest.raises(EmptyDataError, match="min_count=3"):
        vocabulary({"a": 2}, None, 3)


def test_clean_replaces_lone_surrogates_only():
    assert clean("é\ud83d\ude00\udc00") == "é😀\ufffd"


def test_lower_is_idempotent_and_context_free_over_all_of_unicode():
    everything = "".join(chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000)
    assert lower(everything) == "".join(lower(c) for c in everything)
    assert lower(lower(everything)) == lower(everything)
