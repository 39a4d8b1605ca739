import ast
import inspect
import subprocess
import sys
import tokenize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer

from lmlab.corpora.document import Document
from lmlab.tokens import build_tokenizer
from lmlab.tokens.base import FILE

TRICKY = st.text(st.sampled_from("'\"\\\n\r #abrf10x.eE+-*/=<>!:_é😀\t") | st.characters(), max_size=40)
CODEC = build_tokenizer("code", {}, [Document("a")])


@pytest.mark.parametrize(
    ("source", "tokens"),
    [
        ("x **= 2 # power", ["x", "**=", "2"]),
        ("rb'a\\'b' + f\"{c}\"", ["rb'a\\'b'", "+", 'f"{c}"']),
        ('"""doc\n\'s" end""" ,\'\'', ['"""doc\n\'s" end"""', ",", "''"]),
        ("0xFF 1e-5 .5j 1_000 a.b 1.5", ["0xFF", "1e-5", ".5j", "1_000", "a", ".", "b", "1.5"]),
        ("a!=b->c:=d//e...", ["a", "!=", "b", "->", "c", ":=", "d", "//", "e", "..."]),
        ("it's 5 o'clock", ["it", "'s 5 o'", "clock"]),
        ("don't\nstop ?", ["don", "'", "t", "stop", "?"]),
        ("'''never closed", ["''", "'", "never", "closed"]),
        ("", []),
    ],
)
def test_tokens_of_source(source, tokens):
    assert CODEC.tokenise(source) == tokens


def python_tokens(source):
    dropped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    readline = iter(source.splitlines(keepends=True)).__next__
    return [token.string for token in tokenize.generate_tokens(readline) if token.type not in dropped]


@pytest.mark.parametrize("module", [ast, inspect, tokenize])
def test_agrees_with_pythons_own_tokenizer(module):
    source = inspect.getsource(module)
    ours = [token for token in CODEC.tokenise(source) if token != "\\"]  # Python drops line continuations
    assert ours == python_tokens(source)


@settings(max_examples=300)
@given(text=TRICKY)
def test_joined_tokens_lex_into_the_same_tokens(text):
    tokens = CODEC.tokenise(text)
    assert CODEC.tokenise(CODEC.detokenise(tokens)) == tokens
    assert "" not in tokens


@given(train=TRICKY, text=TRICKY)
def test_agrees_with_the_tokenizers_library(tmp_path_factory, train, text):
    tokenizer = build_tokenizer("code", {}, [Document(train + "\na")])
    folder = tmp_path_factory.mktemp("code")
    tokenizer.save(folder)
    reference = HFTokenizer.from_file(str(folder / FILE))
    assert reference.encode(tokenizer.tokenise(text), is_pretokenized=True).ids == tokenizer.encode(text).ids.tolist()


@pytest.mark.parametrize("nasty", ["\\'", "'", '"""', "'''\n\\", "'''\\'", "'\\\n", "r'", "0", "1.", "(", "\\"])
def test_time_is_linear_in_any_text(nasty):
    code = (
        "import sys; from lmlab.corpora.document import Document; from lmlab.tokens import build_tokenizer; "
        "text = 3 * chr(39) + sys.argv[1] * (1_000_000 // len(sys.argv[1])); "
        "build_tokenizer('code', {}, [Document('a')]).tokenise(text)"
    )
    # a second or two; were it quadratic, hours
    subprocess.run([sys.executable, "-c", code, nasty], check=True, timeout=600)


def test_comments_are_dropped_and_strings_kept_whole():
    tokenizer = build_tokenizer("code", {}, [Document("s = 'a # b' # c")])
    assert tokenizer.decode(tokenizer.encode("s = 'a # b' # c").ids) == "s = 'a # b'"
    assert "comments are dropped" in tokenizer.normalisation


def test_a_stray_quote_is_kept_from_opening_a_string():
    words = ["x", "'", "a", "'", "b"]
    assert CODEC.detokenise(words) == "x '\na '\nb"
    assert CODEC.tokenise(CODEC.detokenise(words)) == words
