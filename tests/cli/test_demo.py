"""The demo, on a few functions and a budget of a moment: what it learns is another test's."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from lmlab.cli.demo import PROMPT, SENTENCE
from tests.cli.calls import call
from tests.texts import PPMD

LINE = "Return the name of {} in the given directory, as a string."


@pytest.fixture
def source(here):
    things = ("a file", "the user", "each list", "all modules", "this process")
    (here / "lines.txt").write_text("".join(LINE.format(things[n % 5]) + "\n" for n in range(300)))
    return "lines.txt"


class Words(HTMLParser):
    """The text of a page, and what it would load."""

    def __init__(self, page):
        super().__init__()
        self.text, self.loads, self.titles = "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.loads += [named[name] for name in ("src", "href") if name in named]
        self.titles += [named["title"]] if "title" in named else []

    def handle_data(self, data):
        self.text += data


def test_one_screen_says_it_all_and_its_commands_run_as_printed(source, here, capsys):
    called = call(capsys, "demo", "--source", source, "--minutes", "0.002", "-o", "runs/demo", "--quiet")
    assert called.code == 0, called.err
    assert len(called.out.splitlines()) < 45  # a screen
    for name in ("uniform", *PPMD, "ngram", "cm", "cnn", "lstm", "mixture", "adapting"):
        assert re.search(rf"^  {name} +\d\.\d{{3}}(  |$)", called.out, re.MULTILINE), name
    assert called.out.count("Return the") >= 4  # a prompt before, early and at the end; and the sentence
    assert "lmlab train my.txt" in called.out
    commands = re.findall(r"^  ((?:echo .* \| )?lmlab .*)$", called.out, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        shell = f'lmlab() {{ "{sys.executable}" -m lmlab "$@"; }}\n{command}'
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=os.environ, check=False)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout.strip(), command


def test_its_page_stands_alone_and_its_picture_is_drawn(source, here, capsys):
    words = ["demo", "--source", source, "--minutes", "0.002", "-o", "runs/demo", "--quiet", "--json"]
    called = call(capsys, *words)
    assert called.code == 0, called.err
    assert [each["model"] for each in called.json["results"]] == ["ngram", "cm", "cnn", "lstm", "mixture"]
    assert len({(each["tokens"], each["bytes"]) for each in called.json["results"]}) == 1  # one text, one ruler
    samples = called.json["samples"]
    assert next(iter(samples)) == "before training"
    assert all(text.startswith(PROMPT) for text in samples.values())
    page = Words((here / called.json["page"]).read_text())
    assert page.loads == []
    assert SENTENCE in page.text.replace("⏹", "")
    assert any(re.fullmatch(r"\d+\.\d\d bits, probability [\d.e-]+, rank [\d,]+", title) for title in page.titles)
    assert (here / "runs/demo/curves.png").read_bytes().startswith(b"\x89PNG")
    assert call(capsys, *words).code == 2  # nothing is overwritten unasked
    assert call(capsys, *words, "--overwrite").code == 0
