import json
import pickle
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError, EmptyDataError, SettingError, UnknownNameError, UsageError
from lmlab.registry import names
from lmlab.tokens import build_tokenizer, coverage, load_tokenizer
from lmlab.tokens.base import FILE, clean, lower, vocabulary
from lmlab.vocabulary import BOS, EOS, PAD, SPECIALS, UNK

TEXT = "To be, or not to be: that is\nthe question. [PAD] [UNK] <bos> <eos> def f(x): return 'é' # 😀\n"
KINDS = ["bpe", "byte", "char", "code", "word"]
EXACT = ["bpe", "byte", "char"]


def make(kind, **options):
    return build_tokenizer(kind, options, [Document(TEXT)])


def test_every_registered_tokenizer_is_tested_here():
    assert set(names("tokenizer")) >= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_specials_have_the_same_ids_and_names_everywhere(kind):
    tokenizer = make(kind)
    assert [tokenizer.token_text(id) for id in (PAD, UNK, BOS, EOS)] == list(SPECIALS)
    assert tokenizer.vocab_size == len({tokenizer.tokens[id] for id in range(tokenizer.vocab_size)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", SPECIALS)
def test_a_special_spelled_in_the_text_is_plain_text(kind, special):
    tokenizer = make(kind)
    encoded = tokenizer.encode(f"be {special} or")
    assert min(encoded.ids) >= len(SPECIALS)
    assert encoded.unknown_bytes == 0
    again = tokenizer.decode(encoded.ids)
    assert again.replace(" ", "") == f"be{special}or"


@pytest.mark.parametrize("kind", KINDS)
def test_silent_specials_decode_to_nothing_and_unknown_is_seen(kind):
    tokenizer = make(kind)
    be = tokenizer.encode("be").ids.tolist()
    assert tokenizer.decode([BOS, *be, EOS, PAD, PAD]) == "be"
    assert tokenizer.decode([UNK]) == ("[UNK]" if kind in ("word", "code") else "\ufffd")
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("id", [-1, 10**6])
def test_decode_refuses_ids_outside_the_vocabulary(kind, id):
    with pytest.raises(UsageError, match=f"id {id} is outside"):
        make(kind).decode([5, id])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(text=st.text(st.characters(), max_size=60))  # surrogates too
def test_encode_never_fails_and_spans_stand_behind_every_id(kind, text):
    tokenizer = make(kind)
    encoded = tokenizer.encode(text)
    assert encoded.ids.dtype == np.uint32
    assert len(tokenizer.spans(text)) == len(encoded.ids)
    assert not set(encoded.ids.tolist()) & {PAD, BOS, EOS}
    tokenizer.decode(encoded.ids).encode()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(text=st.text(max_size=60))
def test_known_text_comes_back_as_declared(kind, text):
    tokenizer = build_tokenizer(kind, {}, [Document(text), Document("a")])
    ids = tokenizer.encode(text).ids
    assert UNK not in ids
    again = tokenizer.decode(ids)
    assert again == tokenizer.normalise(text)
    assert tokenizer.encode(again).ids.tolist() == ids.tolist()
    if kind in EXACT:
        assert again == text
        assert tokenizer.normalisation == ""
    else:
        assert tokenizer.normalisation


@pytest.mark.parametrize("kind", KINDS)
def test_ids_point_at_their_spans(kind):
    tokenizer = make(kind)
    for id, span in zip(tokenizer.encode(TEXT).ids, tokenizer.spans(TEXT), strict=True):
        assert tokenizer.token_text(id) == span


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_give_the_same_tokenizer(kind, tmp_path):
    tokenizer = make(kind)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path, kind, tokenizer.settings.dump())
    assert again.tokens == tokenizer.tokens
    assert again.encode(TEXT).ids.tolist() == tokenizer.encode(TEXT).ids.tolist()
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
        load_tokenizer(tmp_path, kind, {})


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_told(kind, tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        load_tokenizer(tmp_path, kind, {})


@pytest.mark.parametrize(("saved", "loaded"), [("word", "char"), ("char", "bpe"), ("bpe", "byte"), ("char", "byte")])
def test_a_file_of_another_kind_is_refused(saved, loaded, tmp_path):
    make(saved, **({"vocab_size": 300} if saved == "bpe" else {})).save(tmp_path)
    with pytest.raises(ArtifactError, match="kind it was saved"):
        load_tokenizer(tmp_path, loaded, {})


def test_words_may_lie_in_any_order_and_wait_until_they_are_needed(tmp_path):
    made = build_tokenizer("word", {}, [Document("to be or not to be")])
    made.save(tmp_path)
    load_tokenizer(tmp_path, "word", {}, known=True).save(tmp_path)  # over what it was opened from
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = dict(reversed(vocab.items()))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path, "word", {}).tokens == made.tokens
    waiting = load_tokenizer(tmp_path, "word", {}, known=True)
    assert pickle.loads(pickle.dumps(waiting)).tokens == waiting.tokens == made.tokens  # noqa: S301
    for wrong in ({**vocab, "be": 4.0}, {**vocab, "be": 5}, {**vocab, "more": 8}, {**vocab, "be": None}):
        content["model"]["vocab"] = wrong
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        waiting = load_tokenizer(tmp_path, "word", {}, known=True)
        with pytest.raises(ArtifactError, match=r"vocabulary of ours|9 tokens, but token_counts"):
            waiting.encode("to be")


@pytest.mark.parametrize("kind", ["char", "word", "code"])
def test_vocabulary_is_ordered_by_count_then_spelling_and_cut(kind):
    documents = [Document("b b b"), Document("d c c a a")]
    tokenizer = build_tokenizer(kind, {}, documents)
    assert [token for token in tokenizer.tokens[4:] if token != " "] == ["b", "a", "c", "d"]
    assert "d" not in build_tokenizer(kind, {"min_count": 2}, documents).tokens
    assert build_tokenizer(kind, {"vocab_size": 6}, documents).vocab_size == 6


@pytest.mark.parametrize("kind", ["char", "word", "code"])
def test_unknown_tokens_are_counted_in_bytes(kind):
    tokenizer = build_tokenizer(kind, {}, [Document("a b c")])
    encoded = tokenizer.encode("a 😀 b é c")
    assert encoded.unknown_tokens == 2
    assert encoded.unknown_bytes == 4 + 2
    assert tokenizer.encode("\ud800").unknown_bytes == 3  # read as U+FFFD


@pytest.mark.parametrize("kind", ["char", "word", "code"])
def test_no_training_text_is_an_error(kind):
    with pytest.raises(EmptyDataError, match="no token occurs min_count=1"):
        build_tokenizer(kind, {}, [])


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_bytes_need_no_training_text(kind):
    tokenizer = build_tokenizer(kind, {}, [])
    assert tokenizer.vocab_size == 260
    assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT


def test_settings_come_as_text_and_are_checked():
    assert build_tokenizer("word", {"vocab_size": "6", "lower": "true"}, [Document("A b c")]).vocab_size == 6
    with pytest.raises(SettingError, match="vocab_size is 4"):
        make("char", vocab_size=4)
    with pytest.raises(UnknownNameError, match="min_count"):
        make("word", mincount=4)
    with pytest.raises(UnknownNameError, match="did you mean 'word'"):
        make("wrod")


def test_coverage_counts_by_hand():
    tokenizer = build_tokenizer("word", {}, [Document("a b c")])
    result = coverage(tokenizer, [Document("a a déjà"), Document("b vu")])
    assert (result.tokens, result.unknown_tokens, result.unknown_bytes, result.types) == (5, 2, 6 + 2, 2)
    assert result.share == pytest.approx(3 / 5)
    assert coverage(tokenizer, []).share == 1


def test_an_empty_vocabulary_says_what_to_lower():
    with pytest.raises(EmptyDataError, match="min_count=3"):
        vocabulary({"a": 2}, None, 3)


def test_clean_replaces_lone_surrogates_only():
    assert clean("é\ud83d\ude00\udc00") == "é😀\ufffd"


def test_lower_is_idempotent_and_context_free_over_all_of_unicode():
    everything = "".join(chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000)
    assert lower(everything) == "".join(lower(c) for c in everything)
    assert lower(lower(everything)) == lower(everything)


MADE_WITH = {"char": {}, "word": {}, "code": {}, "byte": {}, "bpe": {"vocab_size": 270}}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_ids_lead_to_each_other(kind, tmp_path):
    made = build_tokenizer(kind, MADE_WITH[kind], [Document("to be or not to be, that is to say: é")])
    made.save(tmp_path)
    for tokenizer in (made, load_tokenizer(tmp_path, kind, MADE_WITH[kind])):
        assert len(tokenizer) == tokenizer.vocab_size
        for id in range(len(tokenizer)):
            token = tokenizer.id_to_token(id)
            assert token in tokenizer
            assert tokenizer.token_to_id(token) == id
        assert "zyx" not in tokenizer
        assert tokenizer.token_to_id("zyx") is None
        with pytest.raises(UsageError, match="outside"):
            tokenizer.id_to_token(len(tokenizer))


@pytest.mark.parametrize("kind", KINDS)
def test_the_commonest_tokens_are_those_of_the_text(kind, tmp_path):
    text = "to be or not to be, that is to say"
    made = build_tokenizer(kind, MADE_WITH[kind], [Document(text)])
    made.save(tmp_path)
    for tokenizer in (made, load_tokenizer(tmp_path, kind, MADE_WITH[kind])):
        if kind in ("byte", "bpe"):
            with pytest.raises(UsageError, match="keeps no counts"):
                tokenizer.top()
            continue
        counts = Counter(map(tokenizer.id_to_token, tokenizer.encode(text).ids.tolist()))
        assert dict(tokenizer.top(100)) == counts
        assert tokenizer.top(2) == sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:2]
        with pytest.raises(SettingError, match="an integer >= 1"):
            tokenizer.top(0)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", np.arange(3).tobytes()])
def test_damaged_counts_are_refused(damage, tmp_path):
    build_tokenizer("char", {}, [Document("abc")]).save(tmp_path)
    (tmp_path / "token_counts.npy").write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"token_counts\.npy is damaged"):
        load_tokenizer(tmp_path, "char", {})


def test_a_matrix_of_lines():
    tokenizer = build_tokenizer("word", {}, [Document("a b c")])
    ids_BT, lengths_B = tokenizer.to_matrix(["a b c", "", "c zyx"])
    assert ids_BT.tolist() == [[2, 4, 5, 6, 3], [2, 3, 0, 0, 0], [2, 6, 1, 3, 0]]
    assert lengths_B.tolist() == [5, 2, 4]
    assert tokenizer.to_matrix(["a b c"], max_len=2).ids_BT.tolist() == [[2, 4]]
    assert tokenizer.to_matrix([]).ids_BT.shape == (0, 0)
    for lines, max_len in ((["a", None], None), (["a"], 0), ([3], None)):
        with pytest.raises(SettingError, match="must be"):
            tokenizer.to_matrix(lines, max_len)


@pytest.mark.parametrize("kind", KINDS)
def test_specials_have_the_names_that_one_gives_them(kind, tmp_path):
    names = ("_PAD_", "_UNK_", "_BOS_", "_EOS_")
    named = {**MADE_WITH[kind], "specials": names}
    tokenizer = build_tokenizer(kind, named, [Document("to be")])
    assert [tokenizer.id_to_token(id) for id in range(4)] == list(names)
    assert tokenizer.token_to_id("_EOS_") == EOS
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path, kind, named).token_to_id("_UNK_") == UNK
    assert load_tokenizer(tmp_path, kind, MADE_WITH[kind]).token_to_id("[UNK]") == UNK
    for wrong in (("a", "b"), ("a", "a", "b", "c"), ("", "a", "b", "c")):
        with pytest.raises(SettingError, match="four names that differ"):
            build_tokenizer(kind, {"specials": wrong}, [])
