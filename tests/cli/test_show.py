import json

import pytest

from lmlab.cli.show import print_json, print_table

ROW = {
    "model": "6-gram (baseline)",
    "nats/token": 1.23456,
    "perplexity, unk as class": 1234567.8,
    "unk": 12345,
    "MB": None,
}


def test_infinity_is_null_in_json(capsys):
    print_json([{"perplexity": float("inf"), "nats": (float("nan"), 1.5)}])
    assert json.loads(capsys.readouterr().out) == [{"perplexity": None, "nats": [None, 1.5]}]


@pytest.mark.parametrize("width", [20, 60, 80, 160])
def test_no_number_and_no_short_word_is_broken_however_narrow_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table([ROW], title="a title", note="a note")
    out = capsys.readouterr().out
    for text in ("1.2346", "1,234,567.80", "12,345", "6-gram", "(baseline)", "perplexity", "nats/token", " - "):
        assert text in out


@pytest.mark.parametrize("columns", ["abc", "", "-1", "9" * 30])
def test_a_width_that_is_none_is_no_error(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    print_table([ROW])
    assert "1,234,567.80" in capsys.readouterr().out


def test_long_words_are_whole_though_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    path = "/a/very/long/path/to/some/corpus/of/text/that/no/table/holds.csv"
    print_table([{"name": "corpus", "where": path}])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert "".join(line[-1] for line in lines if line) == path


def test_cells_are_not_markup(capsys):
    print_table([{"text": "[bold]x[/bold] :smile:", "yes": True}])
    assert "[bold]x[/bold] :smile:" in capsys.readouterr().out


def test_no_rows_is_no_error(capsys):
    print_table([], title="nothing")
    assert capsys.readouterr().out == "\n"
