"""Pictures: `lmlab plot NAME RUN`, `lmlab inspect NAME RUN`; a keyword of the picture's function is a flag."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from lmlab.cli.parser import Parser
from lmlab.cli.show import in_words, print_json, print_table
from lmlab.seeing import function_of

_MOST_SHOWN = 40
_KINDS: dict[str, Callable[[str], Any]] = {"int": int, "float": float}


def describe(word: str, name: str) -> tuple[str, str]:
    """What the help of a picture says at its head, and its examples."""
    function = function_of(word, name)
    head, _, _ = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")
    return head, f"  lmlab {word} {name} {'runs/a runs/b' if _takes_several(function) else 'runs/a'} -o {name}.png"


def _takes_several(function: Callable[..., Any]) -> bool:
    return any(each.kind is each.VAR_POSITIONAL for each in inspect.signature(function).parameters.values())


def add_arguments(parser: Parser, word: str, name: str) -> None:
    """The runs, the picture's own flags, and where it is written."""
    function = function_of(word, name)
    several = "+" if _takes_several(function) else 1
    parser.add_argument("runs", metavar="RUN", nargs=several, help="a model directory, or hf:PATH_OR_NAME")
    group = parser.add_argument_group("picture")
    for flag, convert, default, told in _flags(function):
        if convert is None:
            group.add_argument(flag, action="store_true", help=told)
        else:
            shown = "" if default in (None, "") else f" (default {_text(default)})".replace("%", "%%")
            metavar = "TEXT" if convert is str else "N" if convert is int else "X" if convert is float else "A,B,C"
            group.add_argument(flag, type=convert, default=default, metavar=metavar, help=f"{told}{shown}")
    group.add_argument("-o", "--out", metavar="FILE", help=f"the picture: .png, .svg or .pdf (default {name}.png)")
    parser.set_defaults(word=word, name=name)


def _flags(function: Callable[..., Any]) -> Iterator[tuple[str, Callable[[str], Any] | None, Any, str]]:
    """The flag of each keyword, what turns its text into a value (None: it has no value), its default, its help."""
    told = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", inspect.cleandoc(function.__doc__ or ""), re.MULTILINE))
    _lm, *others = inspect.signature(function).parameters.values()
    for each in others:
        if each.kind is each.VAR_POSITIONAL:
            continue
        kind = next((kind for kind in _KINDS if re.search(rf"\b{kind}\b", each.annotation)), None)
        convert: Callable[[str], Any] | None = _KINDS[kind] if kind else str
        if each.annotation.startswith("tuple"):
            convert = _several(_KINDS[kind] if kind else str)
        elif each.annotation == "bool":
            convert = None
        help = " ".join(told[each.name].split()).replace("%", "%%").rstrip(".")
        yield "--" + each.name.replace("_", "-"), convert, each.default, help


def _several(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def values(text: str) -> tuple[Any, ...]:
        return tuple(convert(part) for part in text.split(",") if part.strip())

    return values


def _text(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def run(options: argparse.Namespace) -> int:
    """Draw, write, print the table."""
    from lmlab.facade.text_model import TextModel
    from lmlab.seeing.picture import check_path

    path = check_path(options.out or f"{options.name}.png")
    function = function_of(options.word, options.name)
    flags = [flag[2:].replace("-", "_") for flag, *_ in _flags(function)]
    runs = [TextModel.load(run) for run in options.runs]
    picture = function(*runs, **{name: getattr(options, name) for name in flags})
    if options.out or not options.json:
        picture.save(path)
    if options.json:
        print_json({"title": picture.title, "note": picture.note, "rows": picture.rows})
        return 0
    if picture.text:
        print(f"{picture.text}\n\n{picture.note}\npicture: {path}")
        return 0
    note = (
        f"{len(picture.rows) - _MOST_SHOWN:,} rows more: --json has them all\n"
        if len(picture.rows) > _MOST_SHOWN
        else ""
    )
    shown = [{key: in_words(value) for key, value in row.items()} for row in picture.rows[:_MOST_SHOWN]]
    print_table(shown, title=picture.title, note=f"{note}{picture.note}".strip())
    print(f"picture: {path}")
    return 0
