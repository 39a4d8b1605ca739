"""Train a language model on any text.

SOURCE is a text file, a folder of source code, records (*.jsonl, *.csv, *.tsv, *.parquet), all of them packed or not, a
named corpus (`lmlab corpora`), hf:NAME of the Hugging Face hub, or - for standard input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lmlab.cli.parser import NGRAM, Parser, named, reporter_of
from lmlab.cli.show import PROTOCOL, figures_row, print_json, print_table, unknown_lines
from lmlab.config import Named
from lmlab.errors import UsageError
from lmlab.models.scorers import scorer_of
from lmlab.training.ranks import is_first

EXAMPLES = """\
  lmlab train tinyshakespeare --tokenizer char --model lstm --minutes 3 -o runs/lstm
  lmlab train my.txt --tokenizer word --model ngram --order 5 -o runs/kn5
  lmlab train papers.jsonl --template "{title} ; {summary}" --max-chars 512 -o runs/papers
  lmlab train --recipe codesearchnet-cnn --set model.layers=3 -o runs/cnn
  lmlab train --resume runs/lstm
  cat my.txt | lmlab train - --model ngram -o runs/mine"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="the text; a recipe may name it instead")
    parser.add_argument("-o", "--out", metavar="DIR", help="the model directory to write (default runs/SOURCE-MODEL)")
    parser.add_overwrite()
    parser.add_argument("--resume", metavar="DIR", help="go on with a run that was stopped")
    parser.add_argument("--recipe", metavar="NAME", help="a named recipe, a TOML file, or a run to repeat")
    parser.add_argument("--model", dest="model.kind", metavar="KIND", help="what is trained")
    parser.add_learning()
    parser.add_data()


def run(options: argparse.Namespace) -> int:
    """Train, save, show."""
    from lmlab.config import load_recipe
    from lmlab.facade import learn
    from lmlab.run_config import from_tables, merged

    reporter, given = reporter_of(options), named(options)
    if "model.kind" not in given and any(getattr(options, f"model.{name}") is not None for name in NGRAM):
        given["model.kind"] = "ngram"
    if options.resume:
        _check_same(Path(options.resume), given, options.out)
        return _show(learn.resume_named(Path(options.resume), reporter), options)
    recipe = from_tables(load_recipe(options.recipe)) if options.recipe else {}
    out, learned = options.out or _free_name(options, given), merged(recipe, given)
    lm = learn.train_named(learned, None, out, reporter, began=options.began, overwrite=options.overwrite)
    return _show(lm, options)


def _free_name(options: argparse.Namespace, given: Named) -> str:
    from lmlab.run_config import DEFAULT_MODEL

    text = "stdin" if options.source == "-" else Path(options.source or "/").resolve().name.split(".")[0]
    recipe = Path(options.recipe).stem if options.recipe else DEFAULT_MODEL
    base = "runs/" + "-".join(filter(None, (text, str(given.get("model.kind", recipe)))))
    taken = 1
    while Path(base if taken == 1 else f"{base}-{taken}").exists():
        taken += 1
    return base if taken == 1 else f"{base}-{taken}"


def _check_same(folder: Path, given: Named, out: str | None) -> None:
    """A resumed run goes on as it was: what the command line names besides must be what the run has."""
    from lmlab import store
    from lmlab.run_config import RunConfig, from_tables

    if out and Path(out).resolve() != folder.resolve():
        raise UsageError(f"--resume {folder} goes on in that folder, not in {out}", "leave out -o")
    store.read_manifest(folder)
    before = from_tables(store.read_config(folder).dump())
    for path in sorted(given, key=lambda path: not path.endswith(".kind")):  # a setting is one of its kind
        if path == "source":
            continue
        asked = from_tables(RunConfig.build(before | {path: given[path]}).dump())[path]
        if asked != before[path]:
            raise UsageError(
                f"{path} is {before[path]} in {folder}, not {asked}: a resumed run goes on as it was",
                "leave it out, or start a new run",
            )


def _show(lm: Any, options: argparse.Namespace) -> int:
    results, kind = lm.manifest["results"], lm.config.model.kind
    interrupted = lm.manifest["status"] == "interrupted"
    code = 128 + results["signal"] if interrupted else 0
    if not is_first():
        return code
    if options.json:
        print_json({"run": str(lm.folder), "model": kind, "status": lm.manifest["status"], **results})
    elif not interrupted:
        _table(lm, results, kind)
    if interrupted:
        said = f"interrupted at step {results['steps']}, all saved; go on with: lmlab train --resume {lm.folder}"
        print(f"lmlab: {said}", file=sys.stderr)
    return code


def _table(lm: Any, results: dict[str, Any], kind: str) -> None:
    rows = []
    baselines = results.get("baselines", {})
    for name in (name for name in ("ngram", "cm") if name in baselines):
        beside = baselines[name]
        called = f"{beside['order']}-gram" if name == "ngram" else name
        rows.append(figures_row(f"{called} (baseline)", beside, seconds=beside["seconds"], MB=None))
    size = lm.model.nbytes / 1e6
    rows.append(figures_row(kind, results.get("valid", {}), seconds=results["train_seconds"], MB=size))
    note = "\n".join([PROTOCOL, *unknown_lines(results.get("valid", {}))])
    scored, whole = results.get("valid", {}).get("tokens", 0), results.get("valid", {}).get("of_tokens", 0)
    part = f", its first {scored:,} of {whole:,} tokens (`lmlab eval` scores all)" if scored < whole else ""
    title = f"validation split of {lm.manifest['data']['name']}{part}"
    if "valid" not in results:
        lacking = "its scores do not sum to one" if not scorer_of(lm.model).normalised else "no text held out"
        title, note = f"trained on {lm.manifest['data']['name']}; no figures: {lacking}", ""
    print_table(rows, title=title, note=note)
    if "ngram" in baselines and "valid" in results:
        gain = baselines["ngram"]["nats_per_token"] - results["valid"]["nats_per_token"]
        if gain <= 0:
            print(f"The {kind} is not yet worth its time: the n-gram is {-gain:.4f} nats/token better. Train longer.")
        else:
            print(f"The {kind} beats the n-gram by {gain:.4f} nats/token.")
    print(f"saved in {lm.folder}", end="")
    print("; its learning curve is curve.png there" if (lm.folder / "curve.png").exists() else "")
