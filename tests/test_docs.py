"""Docs cannot rot: their Python runs, their commands parse, their links lead somewhere, every setting is listed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lmlab import registry
from lmlab.cli import VERBS, split_verb, verb_parser
from lmlab.config import described
from lmlab.corpora import DataSettings
from lmlab.train_settings import TrainSettings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_parse(page):
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.split(" | ")[-1], comments=True)
            if words[:1] == ["lmlab"]:
                verb, rest = split_verb(words[1:])
                verb_parser(verb).parse_args(rest)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("verb", VERBS)
def test_examples_of_the_help_parse(verb):
    epilog = verb_parser(verb).epilog or ""
    commands = [line.split("|")[-1].strip() for line in epilog.splitlines() if "lmlab " in line]
    assert commands
    for command in commands:
        named, rest = split_verb(shlex.split(command, comments=True)[1:])
        assert named == verb
        verb_parser(named).parse_args(rest)


def test_every_setting_is_documented():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    classes = [TrainSettings, DataSettings]
    classes += [
        registry.resolve(kind, name).Settings for kind in ("model", "tokenizer") for name in registry.names(kind)
    ]
    for cls in classes:
        for field in described(cls):
            assert f"| `{field.name}` | " in text, (cls, field.name)


def test_what_holds_a_promise_is_there():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*test_\w+\.py)`", text))
    assert len(named) > 15
    assert not [name for name in named if not (ROOT / "tests" / name).is_file()]


def test_the_table_of_cells_names_what_the_pages_do():
    course = ROOT / "docs" / "course"
    rows = re.findall(r"^\| (\w+) \| .+? \| (`.+`) \| \d+ \|$", (course / "README.md").read_text(), re.MULTILINE)
    assert {page for page, _ in rows} == {"code", "arxiv", "news", "shakespeare"}
    for page, calls in rows:
        code = "".join(blocks(course / f"{page}.md", "python"))
        for call in re.findall(r"`(.+?)`(?:, |$)", calls):
            assert call in code, (page, call)


def test_pictures_of_the_gallery_are_shown_and_small():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = "".join(page.read_text(encoding="utf-8") for page in pages)
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert f"pictures/{picture.name})" in shown
        assert picture.stat().st_size <= 60_000, picture.name
