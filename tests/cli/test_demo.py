"""The demo, on a few functions and a budget of a moment: what it learns is another test's."""

import json

import pytest

from lmlab.cli.demo import PROMPT
from tests.cli.calls import call

FUNCTION = "def train ( model , data ) : for batch in data : model . learn ( batch ) ; return model"


@pytest.fixture
def source(here):
    records = [{"code_tokens": FUNCTION.replace("data", f"data{n % 3}").split(), "partition": part}
               for n in range(12) for part in ("train", "valid", "test")]  # fmt: skip
    (here / "code.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return "code.jsonl"


def test_it_trains_three_compares_and_completes(source, here, capsys):
    called = call(capsys, "demo", "--source", source, "--minutes", "0.002", "-o", "runs/demo", "--json", "--quiet")
    assert called.code == 0, called.err
    results, completions = called.json["results"], called.json["completions"]
    assert [each["model"] for each in results] == ["ngram", "cnn", "lstm"]
    assert len({(each["tokens"], each["bytes"]) for each in results}) == 1  # one text, one ruler
    assert [each["run"] for each in results] == [f"runs/demo/{kind}" for kind in ("ngram", "cnn", "lstm")]
    assert len(completions) == 3 * 7
    (greedy,) = (row for row in completions if (row["model"], row["strategy"]) == ("ngram", "greedy"))
    assert (PROMPT + " " + greedy["completion"]).startswith("def train ( model , data")
    assert (here / "runs/demo/curves.png").read_bytes().startswith(b"\x89PNG")


def test_its_table_names_what_comes_next(source, capsys):
    called = call(capsys, "demo", "--source", source, "--minutes", "0.002", "-o", "runs/demo", "--quiet")
    assert called.code == 0, called.err
    assert f"completions of {PROMPT}" in called.out
    assert 'go on with: lmlab generate runs/demo/lstm --prompt "def train ("' in called.out
    assert "read it as [UNK]" not in called.out  # this text says "train" often enough
