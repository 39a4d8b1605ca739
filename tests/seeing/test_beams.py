"""The beam tree as a picture: figures, forms, and bad input."""

import json
import math
import re

import pytest

import lmlab
from lmlab.cli import main
from lmlab.errors import SettingError, UsageError
from tests.texts import TEXT, TINY


@pytest.fixture(scope="module")
def toy():
    return lmlab.load("toy:woman")


def texts(rows, which):
    return " ".join(row["text"] for row in rows if row[which] and row["parent"] is not None)


def test_greedy_finds_the_nice_woman_and_a_beam_the_dog_has(toy):
    picture = toy.plot.beams("The", width=2, max_tokens=3)
    assert texts(picture.rows, "greedy") == "nice woman <eos>"
    assert texts(picture.rows, "best") == "dog has <eos>"
    last = {which: [row for row in picture.rows if row[which]][-1] for which in ("greedy", "best")}
    assert math.exp(last["greedy"]["total"]) == pytest.approx(0.5 * 0.4)
    assert math.exp(last["best"]["total"]) == pytest.approx(0.4 * 0.9)
    assert "Greedy finds 'nice woman', p 0.2" in picture.note
    assert "the beam finds 'dog has', p 0.36" in picture.note
    assert toy.generate("The", "greedy")[0].text == " nice woman"
    assert toy.generate("The", "beam:width=2")[0].text == " dog has"
    why = {row["text"]: row["why"] for row in picture.rows if row["state"] == "pruned"}
    assert why == {"car": "width", "house": "width", "guy": "width"}


def test_what_greedy_alone_goes_through_is_in_the_tree():
    lm = lmlab.load("toy:woman")
    rows = lm.plot.beams("The", width=1, max_tokens=3).rows
    assert {row["state"] for row in rows} == {"live", "ended", "pruned"}, "a beam of one is greedy"
    model = lmlab.train(text="ab ac ac ad " * 9, tokenizer="char", model="ngram", order=2)
    for width in (1, 2, 3):
        rows = model.plot.beams("a", width=width, max_tokens=4).rows
        (greedy,) = model.generate("a", "greedy", max_tokens=4)
        found = [row for row in rows if row["greedy"]]
        assert found[-1]["total"] == pytest.approx(greedy.logp)
        assert [row["parent"] for row in found[1:]] == [row["id"] for row in found[:-1]]


@pytest.mark.parametrize("kind", ["ngram", "lstm"])
def test_scores_equal_rescoring_by_the_model(kind):
    options = {"order": 3} if kind == "ngram" else TINY
    lm = lmlab.train(text=TEXT, tokenizer="char", model=kind, **options)
    rows = lm.plot.beams("the ", width=3, max_tokens=4).rows
    prompt = lm.ids("the ")
    for row in rows[1:]:
        path = [row]
        while path[0]["parent"]:
            path.insert(0, rows[path[0]["parent"]])
        ids, total = list(prompt), 0.0
        for each in path:
            logp_V = lm.model.start([ids])[0][0].double()
            id = next(id for id in range(lm.tokenizer.vocab_size) if lm.tokenizer.token_text(id) == each["text"])
            total += float(logp_V[id])
            ids.append(id)
        assert row["total"] == pytest.approx(total, abs=1e-5)
        assert row["score"] == pytest.approx(total / len(path), abs=1e-5)


def test_a_terminal_shows_an_indented_tree_and_a_page_nested_lists(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["plot", "beams", "toy:woman", "--prompt", "The", "--width", "2"]
    assert main([*words, "-o", "tree.html"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^├ dog +0\.4000 +-0\.9163  · best$", told, re.MULTILINE)
    assert re.search(r"^│ ├ house +0\.3000 +-0\.9486  ✕ fell out of the beam$", told, re.MULTILINE)
    page = (tmp_path / "tree.html").read_text()
    assert page.count("<li ") == page.count("</li>") == len(toy.plot.beams("The", width=2).rows)
    assert main([*words, "-o", "tree.svg", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 10
    assert (tmp_path / "tree.svg").read_text().startswith("<?xml")


def test_no_token_becomes_markup():
    lm = lmlab.train(text="<b> & <i> " * 20, tokenizer="char", model="ngram", order=2)
    body = lm.plot.beams("<b", width=3, max_tokens=3).body
    assert "<i>" not in body
    assert "&lt;" in body


def test_bad_input_is_refused(toy):
    with pytest.raises(SettingError, match="width"):
        toy.plot.beams(width=0)
    with pytest.raises(UsageError, match="too large to be seen"):
        toy.plot.beams(width=500)
    with pytest.raises(UsageError, match="zebra"):
        toy.plot.beams("zebra")
    with pytest.raises(SettingError, match="length_penalty"):
        toy.plot.beams(length_penalty=-1)
    with pytest.raises(lmlab.errors.UnknownNameError, match="toy model"):
        lmlab.load("toy:man")
