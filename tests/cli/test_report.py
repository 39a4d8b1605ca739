"""The report: what it shows of each model and why not, and how it looks and works in a browser."""

import importlib.util
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import lmlab
from lmlab.facade.report import report_on
from lmlab.progress import Silent
from tests import huggingface
from tests.cli.calls import call
from tests.texts import some_text

CHROMIUM = Path("/usr/bin/chromium")
SECTIONS = ["Figures", "Learning curves", "Samples", "Surprisal", "Beam trees", "Context length", "Manifests"]


class Page(HTMLParser):
    """What a page would load, its headings, and the names that its links lead to."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.ids, self.headings, self.open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.loads += [named[name] for name in ("src", "href") if name in named]
        self.ids += [named["id"]] if "id" in named else []
        self.open = [tag]

    def handle_data(self, data):
        self.headings += [data] if self.open == ["h2"] else []
        self.open = []


@pytest.fixture
def made(here, capsys):
    """The report on two runs."""
    called = call(capsys, "report", "runs/lstm", "runs/kn3", "--quiet", "--json")
    assert called.code == 0, called.err
    return called.json, (here / "report.html").read_text()


def test_a_report_stands_alone_and_shows_both_runs(made, here):
    told, html = made
    page = Page(html)
    assert all(each.startswith(("#", "data:")) for each in page.loads)
    assert {each[1:] for each in page.loads if each.startswith("#")} <= {*page.ids}
    assert page.headings == SECTIONS
    assert told["bytes"] == len(html.encode()) < 5e6
    assert "learning curve of kn3: no metrics.jsonl: it was not trained in steps" in told["left_out"]
    for name in ("lstm", "kn3"):
        figures = json.loads((here / "runs" / name / "manifest.json").read_text())["results"]["valid"]
        assert f"{figures['bits_per_byte']:.3f}" in html
        assert f"{figures['perplexity']:,.4g}" in html


def test_the_heat_map_adds_up_to_what_evaluation_gives(made, here):
    _, html = made
    lm = lmlab.load("runs/lstm")
    _, texts = lm.texts(chars=1_500)
    (here / "part.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    figures = lm.evaluate("part.jsonl")
    assert f"{figures['total_nats'] / math.log(2):,.1f} bits in {figures['tokens']:,} tokens" in html
    (first, *_) = re.findall(r'title="([^"]*)">', html)
    bits, probability, rank = re.match(
        r"([\d.]+) bits, probability ([\d.e-]+), rank ([\d,]+)\n[\d.]+% ", first
    ).groups()
    assert float(probability) == pytest.approx(2 ** -float(bits), rel=0.02)
    assert int(rank.replace(",", "")) >= 1


def test_models_that_lack_something_are_reported_all_the_same(here, capsys):
    huggingface.save(here / "gpt2")
    for runs in (["hf:gpt2"], ["toy:woman"], ["hf:gpt2", "runs/lstm"], ["runs/lstm", "--mix", "runs/lstm:0.5"]):
        called = call(capsys, "report", *runs, "--quiet")
        assert called.code == 0, called.err
        assert f"figures of {runs[0].removeprefix('runs/')}" in called.out
        assert called.out.splitlines()[-1].startswith("report: report.html")
    named = call(capsys, "report", "hf:gpt2", "--on", "held-out.txt", "--prompt", "the", "--quiet")
    assert (named.code, "surprisal of" in named.out) == (0, False)
    lm = lmlab.train(text=some_text(60), tokenizer="word", model="ngram", order=2, smoothing="stupid-backoff")
    report = report_on([lm], "poem.txt")
    assert "surprisal of ngram: this model's scores do not sum to one" in " ".join(
        (report.page(Silent()), *report.left_out)
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere"),
        (["runs/lstm", "-o", "report.pdf"], "report.pdf is no page"),
        (["runs/lstm", "-o", "/nowhere/report.html"], "/nowhere"),
        (["runs/lstm", "--on", "missing.txt"], "missing.txt"),
        ([], "RUN"),
    ],
)
def test_bad_input_is_one_line_and_what_was_there_stays(here, capsys, words, said):
    (here / "report.html").write_text("an old one")
    called = call(capsys, "report", *words, "--quiet")
    assert called.code in (1, 2)
    assert said in called.err
    assert len(called.err.splitlines()) == 1
    assert (here / "report.html").read_text() == "an old one"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(here, capsys):
    (here / "shut").mkdir(mode=0o500)
    called = call(capsys, "report", "runs/kn3", "-o", "shut/report.html", "--quiet")
    assert (called.code, "shut" in called.err, len(called.err.splitlines())) == (1, True, 1)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium")
@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed")
def test_in_a_browser_nothing_complains_scrolls_sideways_or_needs_a_mouse(made, here):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        papers = {}
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
                said, asked = [], []
                page.on("console", lambda message, said=said: said.append(message.text))
                page.on("pageerror", lambda error, said=said: said.append(str(error)))
                page.on("request", lambda request, asked=asked: asked.append(request.url))
                page.goto((here / "report.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                page.locator(".tokens").first.focus()
                page.keyboard.press("ArrowRight")
                page.keyboard.press("ArrowRight")
                told = page.get_by_role("status").inner_text()
                assert re.search(r"bits, probability .*, rank .*?\s[\d.]+% ", told)
                assert page.locator(".tokens .at").count() == 1
                page.locator(".tokens span").nth(5).hover()
                assert page.get_by_role("status").inner_text() != told
                papers[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert said == []
                assert all(url.startswith(("file:", "data:")) for url in asked)
                page.close()
        assert papers["light"] == "rgb(255, 255, 255)" != papers["dark"]
        browser.close()
