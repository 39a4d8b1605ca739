from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.kernels import engine
from lmlab.kernels.text.scan import CompiledScanner
from lmlab.tokens.base import Vocabulary
from lmlab.tokens.scan import Scanner, WordScanner, scanner
from lmlab.tokens.word import WordSettings, WordTokenizer
from lmlab.vocabulary import BOS, EOS, SPECIALS, UNK

BOTH = pytest.mark.parametrize("kind", [Scanner, CompiledScanner])
TEXTS = st.lists(
    st.sampled_from(["a", "bb", "ü", "<bos>", "[UNK]", " ", "\n", "\t", "\0", "\r\n", "\v", "\f", "\x1c", "\u2028"])
)


def read(words: WordScanner, text: str) -> list[int]:
    return [*words.feed(text.encode()).tolist(), *words.close().tolist()]


@settings(deadline=None)
@given(texts=st.lists(TEXTS, max_size=4), known=st.booleans())
def test_compiled_equals_plain(texts: list[list[str]], known: bool) -> None:
    words = ["bb", "zz"] if known else []
    plain, compiled = Scanner(words, learn=not known), CompiledScanner(words, learn=not known)
    for parts in texts:
        text = "".join(parts).encode()
        assert compiled.feed(text).tolist() == plain.feed(text).tolist()
    assert compiled.close().tolist() == plain.close().tolist()
    assert len(compiled) == len(plain)
    assert known or compiled.words() == plain.words()


@pytest.mark.parametrize("before", [0, 1, 62, 63, 64, 1022, 1023, 1024, 2047])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 17, 63, 64, 65, 1030])
def test_where_words_lie_does_not_matter(before: int, size: int) -> None:
    plain, compiled = Scanner(), CompiledScanner()
    named = ["x" * size, "x" * (size - 1) + "y", "y" + "x" * (size - 1)]
    for text in ("z" * before + "\n" * 1200, " " * before + " ".join(named), "\n".join(named) + "\n"):
        assert compiled.feed(text.encode()).tolist() == plain.feed(text.encode()).tolist()
    assert compiled.words() == plain.words()


@BOTH
def test_lines_are_documents(kind: type[WordScanner]) -> None:
    words = kind()
    assert read(words, "a b\n\n b <eos> c") == [BOS, 4, 5, EOS, BOS, EOS, BOS, 5, UNK, 6, EOS]
    assert words.words() == ["a", "b", "c"]
    assert len(words) == 7
    assert read(words, "c\n") == [BOS, 6, EOS]


@BOTH
def test_many_words(kind: type[WordScanner]) -> None:
    """The tables grow many times over."""
    named = [f"w{i}" for i in range(30_000)]
    words = kind()
    for start in range(0, len(named), 1000):
        words.feed(" ".join(named[start : start + 1000]).encode())
    assert words.words() == named
    assert kind(named, learn=False).feed(b"w29999 w0 x").tolist() == [BOS, 30_003, 4, UNK]


@BOTH
def test_the_ids_of_the_word_tokenizer(kind: type[WordScanner]) -> None:
    tokens = ["b", "a", "don't"]
    tokenizer = WordTokenizer(WordSettings(None, split="space"), Vocabulary([*SPECIALS, *tokens]))
    text = "a b\tc [PAD] don't"
    assert read(kind(tokens, learn=False), text)[1:-1] == tokenizer.encode(text).ids.tolist()


@BOTH
def test_known_words_may_be_spelled_like_specials(kind: type[WordScanner]) -> None:
    assert read(kind(["a", "<bos>", "b"], learn=False), "b <bos> <eos>") == [BOS, 6, 5, UNK, EOS]


def test_a_scanner_for_every_size() -> None:
    with engine.only(False):
        assert isinstance(scanner(100), Scanner)
    with engine.only(True):
        assert isinstance(scanner(100), CompiledScanner)
    assert isinstance(scanner(None), CompiledScanner)
