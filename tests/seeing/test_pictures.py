"""Every picture, by its function, on the command line, and with bad input; what all pictures have in common."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

import lmlab
from lmlab.cli import main
from lmlab.errors import SettingError, UsageError
from lmlab.seeing import WORDS
from lmlab.seeing.style import token_label

TEXT = "the cat sat on the mat. the dog sat on the log. " * 20
PROMPT = "the cat sat on the"


@pytest.fixture(scope="module")
def ngram(tmp_path_factory):
    lm = lmlab.train(text=TEXT, tokenizer="word", model="ngram", order=3)
    lm.save(tmp_path_factory.mktemp("runs") / "kn")
    return lm


def test_the_columns_of_a_temperature_are_what_generation_draws_from(ngram):
    picture = ngram.plot.temperature(PROMPT, temperatures=(1.0, 0.5), k=4, chain="top_k=3")
    (generation,) = ngram.generate(PROMPT, "greedy", temperature=0.5, top_k=3, max_tokens=1, alternatives=4)
    assert [row["token"] for row in picture.rows][:3] == [text for text, _, _ in generation.written[0].alternatives][:3]
    assert sum(row["p at 0.5"] for row in picture.rows) == pytest.approx(1)
    assert picture.rows[3]["p at 0.5"] == 0 < picture.rows[3]["p"]
    assert [row["p"] for row in picture.rows] == pytest.approx(list(ngram.next_tokens(PROMPT, k=4).values()))


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_a_picture_is_written_in_the_form_that_its_ending_names_and_twice_alike(ngram, tmp_path, form):
    picture = ngram.plot.temperature(PROMPT)
    first, second = (picture.save(tmp_path / f"{name}.{form}").read_bytes() for name in "ab")
    assert first == second
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form])
    if form == "svg":
        assert ElementTree.fromstring(first).tag.endswith("svg")


def test_the_command_draws_and_tells_what_the_method_does(ngram, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["plot", "temperature", str(ngram.folder), "--prompt", PROMPT, "--temperatures", "0.5,2", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == ngram.plot.temperature(PROMPT, temperatures=(0.5, 2.0)).rows
    assert not list(tmp_path.iterdir()), "--json alone draws nothing"
    assert main(["plot", "temperature", str(ngram.folder)]) == 0
    assert (tmp_path / "temperature.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("word", list(WORDS))
def test_what_a_model_offers_is_listed(ngram, word, capsys):
    pictures = getattr(ngram, {"plot": "plot", "inspect": "inspect"}[word])
    assert dir(pictures) == sorted(WORDS[word])
    assert all(getattr(pictures, name).__doc__ for name in dir(pictures))
    with pytest.raises(AttributeError, match="there is no picture 'nothing'"):
        pictures.nothing  # noqa: B018
    main([word, "--help"])
    assert all(shows in capsys.readouterr().out + repr(pictures) for shows in WORDS[word].values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plot"], ""),
        (["plot", "nothing"], "nothing"),
        (["plot", "temperature", "RUN", "-o", "a.gif"], "a.gif names no form of a picture"),
        (["plot", "temperature", "RUN", "-o", "a.html"], "this picture has no page"),
        (["plot", "temperature", "RUN", "--k", "0"], "k"),
        (["plot", "temperature", "RUN", "--temperatures", "-1"], "temperature"),
        (["plot", "temperature", "RUN", "--temperatures", "a"], "temperatures"),
        (["plot", "temperature", "RUN", "--chain", "nothing"], "nothing"),
        (["plot", "temperature", "RUN", "--prompt", "zebra"], "zebra"),
        (["plot", "temperature", "nowhere"], "nowhere"),
        (["plot", "temperature", "RUN", "-o", "/nowhere/a.png"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line(ngram, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert main([str(ngram.folder) if word == "RUN" else word for word in words]) in (1, 2)
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == (1 if said else 0)


def test_no_temperature_at_all_is_refused(ngram):
    with pytest.raises((SettingError, UsageError), match="temperatures"):
        ngram.plot.temperature(PROMPT, temperatures=())


@pytest.mark.parametrize(
    ("token", "label"), [("\n", "↵"), (" the", "␣the"), ("$x$", r"\$x\$"), ("", "∅"), ("\x00", "�")]
)
def test_a_token_is_seen_on_an_axis(token, label):
    assert token_label(token) == label
