"""The verbs of n-gram models, on real files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from lmlab.cli import main
from tests.texts import some_text

LINES = some_text(60)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text(LINES, encoding="utf-8")
    assert main(["ngram", "estimate", "my.txt", "--order", "3", "-o", "kn3", "--quiet", "--json"]) == 0
    return tmp_path / "kn3"


def test_estimate_tells_what_it_made(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["ngram", "estimate", "my.txt", "--order", "2", "--prune", "0,1", "-o", "small", "--json"]) == 0
    small = json.loads(capsys.readouterr().out)
    assert main(["ngram", "stats", "kn3", "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert small["vocab_size"] == stats["vocab_size"] == len(set(LINES.split())) + 4
    assert small["ngrams"][1] < stats["ngrams"][1]
    assert stats["ngrams_in_all"] == sum(stats["ngrams"])
    assert main(["ngram", "estimate", "my.txt", "--order", "2", "--quiet", "-o", "plain"]) == 0
    assert capsys.readouterr().out.startswith(f"plain\n       1-grams {small['vocab_size']:>15,}\n")
    assert main(["ngram", "stats", "kn3"]) == 0
    assert "bits an n-gram" in " ".join(capsys.readouterr().out.split())


def test_query_prints_as_kenlm_does(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = LINES.splitlines()[0]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{line} unheard\n\n".encode())))
    capsys.readouterr()
    assert main(["ngram", "query", "kn3"]) == 0
    first, empty, *summary = capsys.readouterr().out.splitlines()
    words = first.split("\t")
    assert [word.partition("=")[0] for word in words[:-1]] == [*line.split(), "unheard", "</s>"]
    assert words[-3].startswith("unheard=0 1 -")
    assert words[-1].startswith("Total: -")
    assert words[-1].endswith("OOV: 1")
    assert empty.startswith("</s>=3 1 -")
    assert [each.partition(":")[0] for each in summary] == [
        "Perplexity including OOVs", "Perplexity excluding OOVs", "OOVs", "Tokens",
    ]  # fmt: skip
    assert summary[2:] == ["OOVs:\t1", f"Tokens:\t{len(line.split()) + 3}"]


def test_query_agrees_with_eval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("held-out.txt").write_text("\n".join(LINES.splitlines()[::3]) + "\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["ngram", "query", "kn3", "held-out.txt", "--json"]) == 0
    query = json.loads(capsys.readouterr().out)
    assert main(["eval", "kn3", "--on", "held-out.txt", "--unit", "line", "--json", "--quiet"]) == 0
    evaluated = json.loads(capsys.readouterr().out)[0]
    assert query["tokens"] == evaluated["tokens"]
    assert query["perplexity_with_oovs"] == pytest.approx(evaluated["perplexity"], rel=1e-5)


def test_unknown_words_count_in_one_perplexity_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read in one piece as line by line; and by hand, from the log10 of each word."""
    lines = [line.replace("saw", "beheld") for line in LINES.splitlines()[:9]]
    Path("held-out.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["ngram", "query", "kn3", "held-out.txt", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main(["ngram", "query", "kn3", "held-out.txt"]) == 0
    *sentences, including, excluding, unknown, tokens = capsys.readouterr().out.splitlines()
    words = [word.partition("=") for line in sentences for word in line.split("\t")[:-1]]
    log10 = {known: [float(figures.split()[2]) for word, _, figures in words if (word != "beheld") == known]
             for known in (True, False)}  # fmt: skip
    assert len(log10[False]) == whole["oovs"] == int(unknown.split()[1]) > 0
    assert len(words) == whole["tokens"] == int(tokens.split()[1])
    for expected, line, name in (
        (10 ** (-sum(log10[True] + log10[False]) / len(words)), including, "perplexity_with_oovs"),
        (10 ** (-sum(log10[True]) / len(log10[True])), excluding, "perplexity_without_oovs"),
    ):
        assert whole[name] == pytest.approx(expected, rel=1e-5)
        assert float(line.split("\t")[1]) == pytest.approx(expected, rel=1e-5)


def test_arpa_there_and_back(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ngram", "arpa", "kn3", "kn3.arpa", "--quiet"]) == 0
    assert main(["ngram", "import", "kn3.arpa", "-o", "back", "--quiet"]) == 0
    capsys.readouterr()
    answers = []
    for model in ("kn3", "back", "kn3.arpa"):
        assert main(["ngram", "query", model, "my.txt", "-v", "sentence"]) == 0
        answers.append([float(line.split()[1]) for line in capsys.readouterr().out.splitlines()])
    assert answers[1] == pytest.approx(answers[0], abs=1e-5)
    assert answers[2] == pytest.approx(answers[1], abs=1e-5)


def test_prune(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    costs = {}
    for name, how in {
        "mild": ["--threshold", "1e-4"],
        "small": ["--ngrams", "60"],
        "whole": ["--threshold", "0"],
    }.items():
        assert main(["ngram", "prune", "kn3", "-o", name, *how, "--json", "--quiet"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert sum(said["ngrams"]) <= {"mild": sum(said["before"]) - 1, "small": 60, "whole": sum(said["before"])}[name]
        assert main(["ngram", "query", name, "my.txt", "--json"]) == 0
        costs[name] = json.loads(capsys.readouterr().out)["perplexity_with_oovs"]
    assert costs["whole"] < costs["mild"] < costs["small"]  # on its own text, what goes is missed
    assert main(["ngram", "estimate", "my.txt", "-o", "to", "--order", "3", "--prune-to", "60", "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["ngrams"]) <= 60
    assert main(["ngram", "prune", "kn3", "-o", "x"]) == 2
    assert "give --threshold or --ngrams" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["estimate", "nowhere.txt", "-o", "x"],
        ["estimate", "my.txt", "-o", "kn3"],
        ["estimate", "my.txt", "-o", "x", "--order", "0"],
        ["estimate", "my.txt", "-o", "x", "--prune", "1,2"],
        ["estimate", "my.txt", "-o", "x", "--memory", "lots"],
        ["estimate", "my.txt", "-o", "x", "--smoothing", "imported"],
        ["query", "nowhere", "my.txt"],
        ["query", "my.txt", "my.txt"],
        ["query", "kn3", "nowhere.txt"],
        ["arpa", "nowhere", "x.arpa"],
        ["arpa", "kn3", "no/such/folder/x.arpa"],
        ["import", "my.txt", "-o", "x"],
        ["prune", "kn3", "-o", "kn3", "--ngrams", "10"],
        ["prune", "kn3", "-o", "x", "--ngrams", "-1"],
        ["stats", "nowhere"],
        ["fly"],
    ],
)
def test_one_clear_line(words: list[str], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["ngram", *words]) in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("lmlab: ")
    assert not Path("x").exists()
