import math

import pytest

from lmlab.report.curve import curves_figure
from lmlab.report.html import coloured, page
from lmlab.report.ladder import WIDTH, Rung, bar, ladder_html, ladder_text
from lmlab.report.screen import heat_lines

NASTY = "<script>alert('x')</script> \udcff & \"'"


@pytest.mark.parametrize("value", [None, math.inf, math.nan, 0.0, -1.0, 1e-9, 4.0, 9.0])
def test_a_bar_is_never_longer_than_the_longest(value):
    assert len(bar(value, 4.0)) <= WIDTH


def test_a_ladder_marks_the_best_and_bears_what_has_no_figure():
    rungs = [Rung("uniform", 8.0, baseline=True), Rung("backoff", None), Rung("lstm", 2.0, "5 steps")]
    lines = ladder_text(rungs).split("\n")
    assert len({line.index("  ", 4) for line in lines}) >= 1
    assert lines[1].split() == ["backoff", "-"]
    assert lines[2].endswith("best · 5 steps")
    assert '<tr class="best"><th>lstm</th>' in ladder_html(rungs)


@pytest.mark.parametrize(
    "html",
    [
        coloured([{"text": NASTY, "bits": 3.0, "rank": 2, "alternatives": [{"text": NASTY, "p": 0.1}]}]),
        page(NASTY).replace("<script>", "", 1),  # its own
        ladder_html([Rung(NASTY, 1.0, NASTY)]),
        curves_figure({NASTY: ([(0.0, math.inf)], [(1.0, 2.0)])}, {NASTY: 2.0}),
    ],
)
def test_no_text_becomes_markup_and_all_of_it_is_utf_8(html):
    assert "<script" not in html
    html.encode()


def test_curves_of_nothing_one_point_and_thousands_are_drawn():
    for points in ([], [(1.0, 2.0)], [(n / 10, 5.0 / (n + 1)) for n in range(5_000)]):
        svg = curves_figure({"lstm": (points, points[::50])}, {"5-gram": 2.0})
        assert len(svg) < 20_000
        assert "nan" not in svg


def test_words_keep_their_order_and_each_has_its_bar():
    words = [(f"word{n}", float(n)) for n in range(30)]
    plain = heat_lines(words, 40, colour=False)
    assert " ".join(plain[::2]).split() == [word for word, _ in words]
    assert [len(line) for line in plain[::2]] == [len(line) for line in plain[1::2]]
    assert sum(line.count("\x1b[0m") for line in heat_lines(words, 40, colour=True)) == 30
