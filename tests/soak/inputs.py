"""What the fuzzer tries: each target draws one input and uses it as lmlab does.

A target returns, or raises whatever comes of it; `WrongError` where it ends well and should not have.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmlab import registry
from lmlab.cli import VERBS, main, verb_parser
from lmlab.cli.parser import named
from lmlab.config import described, load_recipe, recipe_names
from lmlab.corpora import DataSettings, open_corpus
from lmlab.errors import LmlabError
from lmlab.facade.estimate import estimate
from lmlab.models.ngram import arpa
from lmlab.models.ngram.smoothing import SMOOTHINGS
from lmlab.progress import Silent
from lmlab.run_config import RunConfig, from_tables, settings_class
from tests.soak import counted
from tests.soak.campaign import WrongError
from tests.soak.directories import (
    Bases,
    asked,
    forged_arrays,
    forged_checkpoint,
    forged_weights,
    signed_json,
    token_store,
)
from tests.soak.kills import training
from tests.soak.odd import ODD, PACKERS, WORDS, Draw, as_file, as_json, damaged, one_changed, some_words
from tests.soak.processes import last
from tests.texts import some_text


@dataclass(frozen=True)
class Target:
    """An attack, which gets random numbers and a folder, and how many of a million cases it takes."""

    cases: int
    attack: Callable[[Draw, Path], None]


def targets(folder: Path) -> dict[str, Target]:
    """Every target; the folder receives what they damage."""
    torch.set_num_threads(1)
    base = Bases(folder)
    counts = counted.Counted(folder)
    parsers = {verb: verb_parser(verb) for verb in VERBS}
    return {
        "recipes": Target(292_200, recipe),
        "flags": Target(230_000, lambda draw, here: flags(draw, parsers)),
        "text": Target(150_000, text),
        "records": Target(120_000, records),
        "parquet": Target(10_000, parquet),
        "arpa": Target(150_000, lambda draw, here: arpa_file(draw, here, base.arpa)),
        "estimate": Target(10_000, estimated),
        "configs": Target(10_000, lambda draw, here: signed_json(draw, here, base)),
        "arrays": Target(10_000, lambda draw, here: forged_arrays(draw, here, base)),
        "weights": Target(3_000, lambda draw, here: forged_weights(draw, here, base)),
        "tokens": Target(5_000, lambda draw, here: token_store(draw, here, base)),
        "verbs": Target(6_000, lambda draw, here: verb(draw, here, parsers, base)),
        "train": Target(800, lambda draw, here: trained(draw, here)),
        "checkpoints": Target(3_000, lambda draw, here: forged_checkpoint(draw, here, base)),
        "binaries": Target(100_000, lambda draw, here: counted.binary(draw, here, counts)),
        "pairs": Target(5_000, lambda draw, here: counted.pair(draw, here, base.arpa, run_main)),
        "shards": Target(3_000, lambda draw, here: counted.shards(draw, here, counts)),
    }


# -- recipes and flags ------------------------------------------------------------------------------------------------

_GROUPS = ("train", "data", "model", "tokenizer")


def a_setting(draw: Draw) -> tuple[str, dict[str, Any]]:
    """A group and settings of it: the kind where it has kinds, and one at its default, near a bound, or odd."""
    group, table = draw.choice(_GROUPS), dict[str, Any]()
    if group in ("model", "tokenizer"):
        table["kind"] = draw.choice(registry.names(group)) if draw.random() < 0.9 else draw.choice(ODD)
    try:
        fields = described(settings_class(group, table.get("kind")))
    except (LmlabError, TypeError):  # an odd kind
        fields = ()
    if not fields:
        return group, table
    field = draw.choice(fields)
    near = [bound + step for bound in field.bounds.values() for step in (-1, 0, 1, 1e-9)]
    sound = [field.default, *near, *field.choices]
    name = field.name if draw.random() < 0.97 else draw.choice(WORDS)
    return group, table | {name: draw.choice(sound if draw.random() < 0.6 else ODD)}


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return (
        {None: '"none"', True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, (int, float)) or isinstance(value, bool)
        else str(value)
    )


def recipe(draw: Draw, here: Path) -> None:
    """A recipe in TOML or JSON, of settings near their bounds and odd ones; perhaps damaged."""
    tables: dict[str, Any] = {}
    for _ in range(draw.choice((1, 1, 2, 4))):
        group, table = a_setting(draw)
        tables.setdefault(group, {}).update(table)
    if draw.random() < 0.1:
        tables[draw.choice(("seed", "source", "named", "x", "codec", *_GROUPS))] = draw.choice(ODD)
    if draw.random() < 0.3:
        path, said = here / "r.json", as_json(draw, tables)
    else:
        lines = [f"{key} = {_toml(value)}" for key, value in tables.items() if not isinstance(value, dict)]
        for group, table in tables.items():
            if isinstance(table, dict):
                lines += [f"[{group}]", *(f"{json.dumps(name)} = {_toml(value)}" for name, value in table.items())]
        path, said = here / "r.toml", "\n".join(lines)
    data = said.encode("utf-8", "replace")
    path.write_bytes(damaged(draw, data) if draw.random() < 0.2 else data)
    RunConfig.load(json.loads(json.dumps(RunConfig.build(from_tables(load_recipe(str(path)))).dump())))


def flags(draw: Draw, parsers: Mapping[str, Any]) -> None:
    """A command line of any verb, parsed and made a configuration; nothing is run."""
    verb_name = draw.choice(list(parsers))
    words = command_line(draw, parsers[verb_name], lambda action: str(draw.choice(draw.choice((ODD, WORDS)))))
    try:
        options = parsers[verb_name].parse_args(words)
    except SystemExit:  # --help
        return
    given = named(options)
    if getattr(options, "recipe", None):
        given = from_tables(load_recipe(str(draw.choice(recipe_names())))) | given
    RunConfig.build(given)


def command_line(draw: Draw, parser: Any, value: Callable[[Any], str]) -> list[str]:
    """Flags of a verb, with values, and words in their places or too many."""
    words: list[str] = []
    actions = [action for action in parser._actions if action.option_strings]
    for _ in range(draw.choice((0, 1, 1, 2, 3, 5))):
        action = draw.choice(actions)
        flag = draw.choice(action.option_strings)
        if action.dest == "set":
            group, table = a_setting(draw)
            for name, odd in table.items():
                words += [flag, f"{group}.{name}={odd}" if draw.random() < 0.9 else str(odd)]
        elif action.nargs == 0:
            words += [flag]
        else:
            given = value(action)
            words += [f"{flag}={given}"] if flag.startswith("--") and draw.random() < 0.5 else [flag, given]
    for action in parser._actions:
        if not action.option_strings and draw.random() < 0.9:
            words += [value(action)]
        elif action.required and action.option_strings and draw.random() < 0.9:
            words += [action.option_strings[0], value(action)]
    return words


# -- texts and records ------------------------------------------------------------------------------------------------

_UNITS = ("auto", "document", "line", "record")


def read_through(path: Path, settings: DataSettings) -> None:
    """All that a corpus gives, twice the same."""
    corpus = open_corpus(str(path), settings)
    for split in ("all", "train", "valid", "test"):
        for document in corpus.documents(split):
            document.text.encode("utf-8")
    corpus.text("valid", 100)


def reading_options(draw: Draw) -> dict[str, Any]:
    """How to read: mostly as it comes."""
    options: dict[str, Any] = {
        "split": draw.choice(("auto", "auto", "none", "0.5,0.25,0.25", "valid 0.1, train 0.8, test 0.1"))
    }
    choices = {
        "unit": _UNITS, "errors": ("strict", "replace"), "max_chars": (1, 2, 7, None), "limit": (1, 2, None),
        "text_field": ("text", "a", "", None), "template": ("{text}", "{a} {b}", "{text[0]}", "{a.b}", None),
        "columns": ((), ("text",), ("a", "b"), ("text", "b", "c")), "delimiter": ("auto", "tab", ";", "|", " "),
        "quote": ("auto", "none", "'", '"'), "escape": ("none", "\\"),
    }  # fmt: skip
    for name in draw.sample(list(choices), draw.choice((0, 1, 2, 4))):
        options[name] = draw.choice(choices[name])
    return options


def text(draw: Draw, here: Path) -> None:
    """A text file in any encoding and compression, sound or damaged."""
    path = here / draw.choice(("t", "t.txt", "t.txt.gz", "t.bz2", "t.xz", "t.zst"))
    path.write_bytes(as_file(draw, some_words(draw)))
    read_through(path, DataSettings(**reading_options(draw)))


def a_record(draw: Draw) -> dict[str, Any]:
    """A record that mostly has a text."""
    record = {"text": some_words(draw, 6), "a": draw.choice(WORDS), "b": draw.choice(("x", 1, None, ["t", "u"]))}
    return one_changed(record, draw) if draw.random() < 0.2 else record


def records(draw: Draw, here: Path) -> None:
    """JSONL, JSON, CSV, TSV: by a writer of its own, then perhaps damaged."""
    kind = draw.choice(("jsonl", "json", "csv", "tsv"))
    rows = [a_record(draw) for _ in range(draw.randrange(6))]
    if kind == "jsonl":
        said = "".join(as_json(draw, row) + draw.choice(("\n", "\n", "\r\n", "\n\n")) for row in rows)
    elif kind == "json":
        said = as_json(draw, rows)
    else:
        delimiter, quote = ("\t" if kind == "tsv" else draw.choice(",;|")), draw.choice(('"', '"', "'", ""))
        cells = [[str(cell) for cell in row.values()] for row in rows]
        head = [draw.choice((["text", "a", "b"], ["text", "text"], ["a"], []))]
        said = "\n".join(
            delimiter.join(f"{quote}{cell.replace(quote, quote * 2) if quote else cell}{quote}" for cell in row)
            for row in head + cells
        )
    path = here / f"t.{kind}{draw.choice(('', '', '', '.gz', '.zst'))}"
    path.write_bytes(as_file(draw, said))
    read_through(path, DataSettings(**reading_options(draw)))


def parquet(draw: Draw, here: Path) -> None:
    """Parquet with columns of odd types, then perhaps damaged."""
    import pyarrow
    import pyarrow.parquet

    many = draw.randrange(5)
    columns: dict[str, Any] = {
        "text": draw.choice((
            pyarrow.array([some_words(draw, 5) for _ in range(many)]),
            pyarrow.array([None] * many, pyarrow.string()),
            pyarrow.array([["a", "b"]] * many),
            pyarrow.array([draw.choice((0, 2**62, -(2**62))) for _ in range(many)], pyarrow.timestamp("us")),
            pyarrow.array([1.5] * many),
            pyarrow.array([b"\xff\xfe"] * many, pyarrow.binary()),
        )),
        "a": pyarrow.array(list(range(many))),
    }  # fmt: skip
    held = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), held, compression=draw.choice(("none", "snappy", "zstd")))
    data = held.getvalue()
    path = here / "t.parquet"
    path.write_bytes(damaged(draw, data) if draw.random() < 0.7 else data)
    read_through(path, DataSettings(**reading_options(draw)))


def estimated(draw: Draw, here: Path) -> None:
    """A text counted as it is, and questions to the model."""
    path = here / "t"
    path.write_bytes(as_file(draw, some_words(draw, 60)))
    lm = estimate(
        path,
        order=draw.randint(1, 5),
        prune=draw.choice(([], [], [0], [0, 1], [0, 0, 1], [0, 2, 1])),
        skip_symbols=draw.random() < 0.5,
        errors=draw.choice(("strict", "replace")),
        smoothing=draw.choice(SMOOTHINGS),
        layout=draw.choice(("fast", "compact")),
        reporter=Silent(),
    )
    asked(lm, draw, here)


# -- ARPA files -------------------------------------------------------------------------------------------------------

_COLUMNS = [*b"-99 0 1 -inf inf nan -1e400 1e-400 x -0 <s> </s> <unk> 0x1p3 1_0 -3.4e38 \xc3\xa9 \xd9\xa3".split(), b""]


def arpa_file(draw: Draw, here: Path, sources: Sequence[bytes]) -> None:
    """An ARPA file with lines and columns changed, encoded or packed otherwise, or damaged."""
    lines = draw.choice(sources).split(b"\n")
    for _ in range(draw.choice((0, 1, 1, 2, 4))):
        at = draw.randrange(len(lines))
        change = draw.randrange(8)
        if change == 0:
            del lines[at]
        elif change == 1:
            lines.insert(at, draw.choice(lines))
        elif change == 2:
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif change == 3:
            lines[at] = b"ngram %d=%d" % (
                draw.choice((0, 1, 2, 3, 4, 9, 10**5, 10**9)),
                draw.choice((0, 1, 2, 30, 10**4, 10**9, 10**17, 10**30)),
            )
        elif change == 4:
            lines[at] = draw.choice(
                (b"", b"\\1-grams:", b"\\2-grams:", b"\\9-grams:", b"\\data\\", b"\\end\\", b"iARPA", b" ", b"#", b"\\")
            )
        else:
            columns = lines[at].split(b"\t" if change < 7 else b" ")
            columns[draw.randrange(len(columns))] = draw.choice(_COLUMNS)
            lines[at] = draw.choice((b"\t", b"\t", b" ")).join(columns)
        lines = lines or [b""]
    data = b"\n".join(lines)
    if draw.random() < 0.2:
        data = damaged(draw, data)
    if draw.random() < 0.05:
        data = draw.choice(
            (
                lambda: data.decode("utf-8", "replace").encode("utf-16"),
                lambda: b"\xef\xbb\xbf" + data,
                lambda: data.replace(b"\n", b"\r\n"),
            )
        )()
    if draw.random() < 0.05:
        data = draw.choice(PACKERS)(data)
    path = here / "a.arpa"
    path.write_bytes(data)
    trie, words = arpa.read(path, errors=draw.choice(("strict", "replace")), positive=draw.choice(("refuse", "zero")))
    if not 1 <= len(words) + 4 <= 10**6:
        raise WrongError("words from nowhere")
    logs = trie.logp_array(np.array([2, *range(4, min(9, 4 + len(words))), 3], dtype=np.uint32))
    if np.isnan(logs).any() or (logs > 1e-6).any():
        raise WrongError("scores that are NaN or above 0")
    if draw.random() < 0.2:
        arpa.write(here / "b.arpa", trie, words)


# -- whole commands ---------------------------------------------------------------------------------------------------

_RUNNABLE = [verb for verb in VERBS if verb not in ("train", "compare", "demo", "serve")]
_SMALL = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "0.5",
    "1e-3",
    "x",
    "",
    "nan",
    "inf",
    "1" * 400,
    "a,b",
    "0,1",
    "none",
    "caf\udce9",
    "\0",
]


def verb(draw: Draw, here: Path, parsers: Mapping[str, Any], base: Bases) -> None:
    """A whole command on small inputs: its exit code and what it says."""
    name, new = draw.choice(_RUNNABLE), str(here / "new")
    models = [str(path) for path in (*base.counted, *base.trained)]
    texts = [shutil.copy(base.folder / file, here / file) for file in ("text", "made.arpa")]  # some write over them
    texts = [*map(str, texts), "-"]
    likely = {"RUN": models, "MODEL": models, "TEXT": texts, "SOURCE": texts, "FILE": [*texts, new], "DIR": [new]}

    def value(action: Any) -> str:
        if action.metavar in likely and draw.random() < 0.85:
            return draw.choice(likely[action.metavar])
        return draw.choice(_SMALL if draw.random() < 0.8 else [*models, *texts, ".", "missing", new])

    run_main([*name.split(), *command_line(draw, parsers[name], value)], here)


def trained(draw: Draw, here: Path) -> None:
    """A few steps of training with any settings, small ones."""
    (here / "text").write_text(some_text(40))
    words = training(draw.choice(("lstm", "cnn", "transformer")), steps=draw.choice((1, 2, 3)))
    for _ in range(draw.choice((1, 2, 3))):
        group, table = a_setting(draw)
        for name, value in table.items():
            if name not in ("kind", "minutes", "epochs", "steps", "device"):
                small = draw.random() < 0.7 or isinstance(value, (int, float))
                words += ["--set", f"{group}.{name}={draw.choice(_SMALL) if small else value}"]
    run_main(words, here)


def run_main(words: list[str], here: Path) -> None:
    """Run a command in this process; one line and an exit code, or well."""
    for place in (here / "new", here / "out"):
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        sys.stdin = io.TextIOWrapper(io.BytesIO(b"the end of\nnaive\n"))
        try:
            code = main([*words, "--quiet"])
        except SystemExit:  # --help
            return
        except LmlabError:
            if "--debug" in words:
                return
            raise WrongError("an error of ours passes main") from None
    if "did not foresee" in said.getvalue():
        raise WrongError(said.getvalue()[:200])
    if code not in (0, 1, 2):
        raise WrongError(f"exit code {code}: {last(said.getvalue())}")
    if code and not (said.getvalue().startswith("lmlab: ") and said.getvalue().count("\n") == 1):
        raise WrongError(f"exit code {code}, and says not one line: {said.getvalue()[:200]!r}")
