# ruff: noqa: RUF001
"""SentencePiece models, and the normalisation that CCNet's expect."""

import itertools
import subprocess
import sys

import pytest

from lmlab.errors import ArtifactError, LmlabError, SettingError
from lmlab.tokens import build_tokenizer, load_tokenizer
from lmlab.tokens.ccnet import normalise

CASES = {
    "": "",
    "  \t\n ": "",
    " Upper  CASE ": "upper  case",
    "Ångström déjà Đặng ñ": "angstrom deja đang n",
    "ÆØß İI": "æøß ii",
    "in 1984, ٣٤٥ १२ １": "in 0000, 000 00 0",
    "½ ² Ⅳ": "½ ² ⅳ",
    "“a” „b” «c» 「d」 《e》": '"a" "b" "c" "d" "e"',
    "it’s ´x´": "it's 'x'",
    "a–b—c━d►e": "a-b - c-d-e",
    "好。对，、：？！（）；": "好.对,,:?!();",
    "．～…〈〉【】％∶": ". ~...<>[]%:",
    "one\ntwo\r\nthree\tfour\x00\x7f\x85\x9f.": "onetwothreefour.",
    "‘a’ ‚b‘": "‘a' ‚b‘",
    "\ud55c\uad6d": "\u1112\u1161\u11ab\u1100\u116e\u11a8",  # Hangul comes apart
    "good \u201cday\u201d": 'good "day"',
    "é": "e",
    "ΟΔΟΣ": "οδος",
    "\N{NO-BREAK SPACE}x\N{ZERO WIDTH SPACE}y": "x\N{ZERO WIDTH SPACE}y",
}
"""By the description of CCNet's text_normalizer: case, accents (marks of NFD), numbers, punctuation, control."""


@pytest.mark.parametrize("text", CASES)
def test_ccnets_normalisation(text):
    assert normalise(text) == CASES[text]


def test_without_the_library_the_extra_is_named(tmp_path):
    (tmp_path / "a.model").write_bytes(b"x")
    code = (
        "import sys; sys.modules['sentencepiece'] = None\n"
        "from lmlab.tokens import build_tokenizer\n"
        f"build_tokenizer('sentencepiece', {{'model': {str(tmp_path / 'a.model')!r}}}, [])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert said.splitlines()[-1].endswith("pip install 'lmlab[sentencepiece]'")


@pytest.mark.parametrize("settings", [{}, {"model": "/nowhere"}, {"model": "a", "normalise": "all"}])
def test_no_model_or_no_such_normalisation(settings):
    with pytest.raises((SettingError, ArtifactError)):
        build_tokenizer("sentencepiece", settings, [])


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"sentencepiece": "@"}')
    with pytest.raises(LmlabError):
        load_tokenizer(tmp_path, "sentencepiece", {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of a few sentences."""
    library = pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
    folder = tmp_path_factory.mktemp("pieces")
    things = itertools.product(["cat", "dog", "owl"], ["mat", "log", "bed"], range(10))
    lines = [f"the {a} sat on the {b} {n}" for a, b, n in things]
    (folder / "text").write_text("\n".join(lines))
    said = {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2}
    library.SentencePieceTrainer.train(input=str(folder / "text"), model_prefix=str(folder / "sp"), **said)
    return folder / "sp.model"


def test_ids_pieces_and_text_are_the_librarys(trained, tmp_path):
    import sentencepiece

    native = sentencepiece.SentencePieceProcessor(model_file=str(trained))
    tokenizer = build_tokenizer("sentencepiece", {"model": str(trained)}, [])
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path, "sentencepiece", {"model": "moved"})
    for text in ("the cat sat", "  two  spaces", "a zebra ünd", "", "the owl 17"):
        ids = native.encode(text)
        expected = [1 if id == native.unk_id() else id + 4 for id in ids]
        assert tokenizer.encode(text).ids.tolist() == again.encode(text).ids.tolist() == expected
        assert tokenizer.pieces(text) == native.encode(text, out_type=str)
        if 1 not in expected:
            assert tokenizer.decode(expected) == native.decode(ids)
        assert "".join(tokenizer.spans(text)).split() == text.split()
    assert tokenizer.encode("ünd").unknown_bytes == len("ü".encode())


def test_ccnets_normalisation_comes_first(trained):
    plain = build_tokenizer("sentencepiece", {"model": str(trained)}, [])
    ccnet = build_tokenizer("sentencepiece", {"model": str(trained), "normalise": "ccnet"}, [])
    assert ccnet.pieces("The CÁT\nsat") == plain.pieces("the catsat")
