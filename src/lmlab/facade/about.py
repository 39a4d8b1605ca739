"""What a model is, for people: on what it was trained, how good and how big it is, how to use it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlab.corpora.settings import IN_HAND
from lmlab.report.html import escape, facts, fragment

_LEFT_OUT = ("kind", "memory", "compat", "layout")  # settings that say nothing of what a model is
_SOME = 4  # settings named in a line


@dataclass(frozen=True)
class About:
    """Lines about a model, and the commands that use it."""

    title: str
    rows: list[tuple[str, str]]
    commands: list[str]

    def text(self) -> str:
        """For a terminal."""
        width = max((len(name) for name, _ in self.rows), default=0)
        lines = [self.title, *(f"  {name:<{width}}  {value}" for name, value in self.rows)]
        return "\n".join(lines + (["", "use it:", *(f"  {each}" for each in self.commands)] if self.commands else []))

    def html(self) -> str:
        """For a notebook."""
        commands = "".join(f"<pre>{escape(each)}</pre>" for each in self.commands)
        return fragment(f"<p><b>{escape(self.title)}</b></p>", facts(self.rows), commands)


def about(manifest: Mapping[str, Any], folder: Path | None, size: int | None, vocab_size: int | None = None) -> About:
    """What a manifest says.

    Args:
        manifest: of a run; what it lacks is left out.
        folder: where the run lies; None where it is in memory alone.
        size: bytes on disk, or in memory.
        vocab_size: where the manifest does not have it yet.
    """
    config, results = manifest["config"], manifest["results"]
    model, data, kind = config["model"], manifest["data"], config["tokenizer"]["kind"]
    vocab_size = vocab_size or manifest.get("vocab_size")
    unread = "; its results are not in yet" if manifest["status"] == "running" else ""
    rows = [
        ("model", _model(model, results)),
        ("tokens", f"{kind}, vocabulary {vocab_size:,}" if vocab_size else kind),
        ("learned from", _data(data)),
        ("training", _training(manifest) + unread),
        *(("", note) for note in results.get("notes", ())[:_SOME]),
        *_quality(results),
    ]
    if size is not None:
        rows.append(("size", f"{size / 1e6:,.1f} MB {'on disk' if folder else 'in memory'}"))
    name = model["kind"].upper() if model["kind"] in ("lstm", "gru", "rnn", "cnn") else model["kind"]
    return About(f"{folder or 'a model in memory'}: {name} on {data['name']}", rows, _commands(manifest, folder))


def _model(model: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    if "weights" in results:
        return " + ".join(f"{weight:.2f} {kind}" for kind, weight in results["weights"].items())
    if model["kind"] == "ngram":
        counts = results.get("ngrams")
        total = f", {sum(counts):,} n-grams" if isinstance(counts, list) and counts else ""
        return f"{model.get('order')}-gram, {model.get('smoothing')}{total}"
    named = [f"{name} {value}" for name, value in model.items() if isinstance(value, int) and name not in _LEFT_OUT]
    named = [each for each in named if not each.endswith(("True", "False"))][:_SOME]
    size = f"; {results['parameters']:,} parameters" if "parameters" in results else ""
    return f"{model['kind']}{', ' if named else ''}{', '.join(named)}{size}"


def _data(data: Mapping[str, Any]) -> str:
    train = data.get("splits", {}).get("train", {})
    counts = ", ".join(f"{train[unit]:,} {unit}" for unit in ("documents", "bytes", "tokens") if unit in train)
    rule = f" ({data['split_rule']})" if data.get("split_rule") else ""
    return f"{data['name']}{': ' if counts else ''}{counts}{rule}"


def _training(manifest: Mapping[str, Any]) -> str:
    results, train = manifest["results"], manifest["data"].get("splits", {}).get("train", {})
    seconds = f"{results['train_seconds']:.1f} s" if "train_seconds" in results else ""
    steps = f"{results['steps']:,} steps" if results.get("steps") is not None else ""
    seen = results.get("tokens_seen")
    passes = f"{seen / train['tokens']:.2g} passes over the text" if seen and train.get("tokens") else ""
    return ", ".join(filter(None, (manifest["status"], steps, passes, seconds)))


def _quality(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for split, name in (("test", "test"), ("valid", "validation")):
        if figures := results.get(split):
            name = {"valid": "validation"}.get(figures.get("split", ""), name)
            unknown = f", {figures['unk_tokens']:,} unknown" if figures.get("unk_tokens") else ""
            part = f"the first {figures['tokens']:,} of " if figures["tokens"] < figures.get("of_tokens", 0) else ""
            scored = f"{part}{figures.get('of_tokens', figures['tokens']):,} tokens of the {name} split{unknown}"
            each = f"perplexity {figures['perplexity']:,.4g} a token"
            rows.append(("how good", f"{figures['bits_per_byte']:.3f} bits/byte, {each}, on {scored}"))
    beside = results.get("baselines", {})
    if "ngram" in beside and "valid" in results:
        ngram, cm = beside["ngram"], beside.get("cm")
        better = 1 - results["valid"]["bits_per_byte"] / ngram["bits_per_byte"]
        said = f"a {ngram['order']}-gram has {ngram['bits_per_byte']:.3f} bits/byte"
        said += f", context mixing {cm['bits_per_byte']:.3f}" if cm else ""
        rows.append(("beside it", f"{said}: {abs(better):.1%} {'better' if better > 0 else 'worse'} than the n-gram"))
    return rows


def _commands(manifest: Mapping[str, Any], folder: Path | None) -> list[str]:
    if folder is None:
        return []
    run, status = shlex.quote(str(folder)), manifest["status"]
    if status in ("running", "interrupted"):
        return [f"lmlab train --resume {run}"]
    commands = [f"lmlab generate {run} --temperature 0.7 -n 3", f'echo "any text" | lmlab score {run} -']
    kept = manifest["config"].get("source") not in ("-", IN_HAND, None)
    held_out = {"test", "valid"} & set(manifest["data"].get("splits", ()))
    return [*commands, f"lmlab eval {run}" + ("" if kept and held_out else " --on TEXT")]
