"""What a model is: on what it was trained, how good, how big, how to use it. Without one: this machine, the versions.

--settings shows every setting and result as they were kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lmlab.cli.parser import Parser
from lmlab.cli.show import print_json, print_table

EXAMPLES = """\
  lmlab info runs/lstm
  lmlab info runs/lstm --settings
  lmlab info"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", nargs="?", metavar="RUN", help="a model")
    parser.add_argument("--settings", action="store_true", help="every setting, result and file")


def run(options: argparse.Namespace) -> int:
    """Tell about a run, or the machine."""
    content = _run(options.run_folder) if options.run_folder else _machine()
    if options.json:
        print_json(content)
        return 0
    if options.run_folder and not options.settings:
        from lmlab.facade.about import about

        print(about(content, Path(options.run_folder), sum(content["files"].values())).text())
        return 0
    from lmlab.config import walk

    rows = [{"what": name, "value": str(value)} for name, value in walk(content)]
    print_table(rows, title=options.run_folder or "this machine")
    return 0


def _run(name: str) -> dict[str, Any]:
    from lmlab import packed, store

    if name.startswith("hf:"):
        from lmlab.facade.hf import open_hf

        return open_hf(name).manifest
    return {**store.read_manifest(Path(name)), "files": packed.sizes(Path(name))}


def _machine() -> dict[str, Any]:
    from importlib.metadata import version

    from lmlab import registry, store
    from lmlab.config import recipe_names
    from lmlab.disk import cache_dir

    return {
        **store.versions(),
        **{name: version(name) for name in store.LIBRARIES},
        "models": ", ".join(registry.names("model")),
        "tokenizers": ", ".join(registry.names("tokenizer")),
        "recipes": ", ".join(recipe_names()),
        "cache": str(cache_dir()),
    }
