"""Write: continue a prompt by greedy choice, sampling, beam search or another strategy.

Processors are applied in the order in which you write them, those of --chain first; the order changes the result.
docs/guide/decoding.md says which strategy and which processors to take when.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab generate runs/lstm --prompt "ROMEO:" --temperature 0.8 --top-k 40 --top-p 0.95 -n 3 --max-tokens 200 --seed 1
  lmlab generate runs/lstm --prompt "ROMEO:" --chain "penalties,top_k=40,temperature=0.8,top_p=0.95" --trace
  lmlab generate runs/kn5 --prompt "to be" --strategy beam --beams 5 -n 5
  lmlab generate runs/kn5 --prompt "to be" --strategy diverse_beam:groups=3,diversity=1 -n 3
  lmlab generate runs/kn5 --prompt "the king" --strategy constrained --must crown --max-tokens 40
  lmlab generate runs/lstm --prompt "KING" --strategy greedy --stop "\\n\\n" --stream
  lmlab generate runs/lstm --prompt "In the year " --regex "[0-9]{4}"
  lmlab generate runs/lstm --json-schema person.json --max-tokens 300
  lmlab generate runs/lstm --prompts openings.txt --json
  lmlab generate runs/lstm --prompt "ROMEO:" --mix runs/kn6 --adapt counts"""


class _InOrder(argparse.Action):
    """Collects processors in the order of the command line."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        named = getattr(namespace, "processors", None) or {}
        name = self.option_strings[0].removeprefix("--").replace("-", "_")
        named.pop(name, None)
        namespace.processors = {**named, name: values}


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    from lmlab.config import described
    from lmlab.decoding import PROCESSORS, STRATEGIES

    names = ", ".join(STRATEGIES)
    parser.add_argument("run_folder", metavar="RUN", help="a model directory, or hf:PATH_OR_NAME")
    parser.add_argument("--prompt", default=None, metavar="TEXT", help="what to go on from (default nothing)")
    parser.add_argument("--prompts", default=None, metavar="FILE", help="many prompts, one a line, in one batch")
    parser.add_argument("--strategy", default=None, metavar="NAME[:K=V,...]", help=f"{names} (default sample)")
    parser.add_argument("-n", type=int, default=1, metavar="N", help="how many continuations")
    parser.add_argument("--max-tokens", type=int, default=200, metavar="N", help="at most N tokens each (default 200)")
    parser.add_argument("--max-seconds", type=float, default=None, metavar="X", help="end all texts after X seconds")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of sampling; repeats the same text")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end where TEXT appears; \\n is a newline"
    )
    parser.add_argument("--stream", action="store_true", help="show the text as it grows")
    parser.add_argument(
        "--allow-unknown", action="store_true", help="read and write what the vocabulary lacks as [UNK]"
    )
    parser.add_argument(
        "--alternatives", type=int, default=0, metavar="N", help="token by token, with the N likeliest at each place"
    )
    parser.add_argument("--trace", action="store_true", help="token by token, with what each processor left")
    group = parser.add_argument_group("what may be written, by the extra lmlab[grammar]; one of")
    group.add_argument("--regex", metavar="RE", help="texts that the regular expression matches as a whole")
    group.add_argument("--json-schema", metavar="FILE", help="instances of a JSON schema")
    group.add_argument("--grammar", metavar="FILE", help="texts of a grammar in Lark's notation")
    parser.add_composition()
    group = parser.add_argument_group("of some strategies")
    group.add_argument("--beams", type=int, default=None, metavar="N", help="hypotheses kept (default 5)")
    group.add_argument("--length-penalty", type=float, default=None, metavar="A", help="score = log p / length ** A")
    group.add_argument("--must", action="append", metavar="TEXT", help="constrained: the text shall contain TEXT")
    group.add_argument("--draft", default=None, metavar="RUN", help="speculative: the model that drafts")
    group = parser.add_argument_group("processors, applied in the order given")
    group.add_argument(
        "--chain", default="", metavar="NAME[=X[:K=V]],...", help="several: penalties,top_k=40,temperature=0.8"
    )
    for name, kind in PROCESSORS.items():
        first = described(kind)[0]
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, action=_InOrder, dest="processors", metavar="X", help=first.help)


def strategy_of(options: argparse.Namespace) -> Any:
    """The strategy that the options name; options of another strategy are refused."""
    from lmlab.config import described
    from lmlab.decoding import STRATEGIES
    from lmlab.decoding import strategy_of as told

    asked = options.strategy or ("sample" if options.beams is None else "beam")
    name = asked.partition(":")[0]
    kind = STRATEGIES.get(name)
    fields = {field.name: field.default for field in described(kind)} if kind else {}
    flags = {"--beams": "width", "--length-penalty": "length_penalty", "--must": "must", "--draft": "draft"}
    named = {}
    for flag, setting in flags.items():
        value = getattr(options, flag[2:].replace("-", "_"))
        if value is not None and kind and setting not in {*fields, *kind.objects}:
            raise UsageError(f"{flag} means nothing to --strategy {name}", "leave it out, or name another strategy")
        if value is not None:
            named[setting] = value
    if "width" in fields and "width" not in named and "width" not in asked:
        named["width"] = max(fields["width"], options.n)
    if "seed" in fields and options.seed is not None:
        named["seed"] = options.seed
    if named.get("draft") is not None:
        from lmlab.facade.text_model import TextModel

        named["draft"] = TextModel.load(options.draft).model
    return told(asked, options.chain, **named, **(options.processors or {}))


def unescaped(mark: str) -> str:
    r"""`\n`, `\t` and `\\` as a shell hands them over, meant as a newline, a tab and a backslash.

    >>> unescaped(r"é\n")
    'é\n'
    """
    return re.sub(r"\\([nt\\])", lambda found: {"n": "\n", "t": "\t"}.get(found[1], "\\"), mark)


def run(options: argparse.Namespace) -> int:
    """Generate, print."""
    from lmlab.facade.text_model import TextModel

    strategy = strategy_of(options)
    prompts = _prompts(options)
    lm = TextModel.load(options.run_folder).composed(options.adapt, options.mix, reporter_of(options))
    asked = {name: getattr(options, name) for name in ("n", "max_tokens", "max_seconds", "alternatives", "trace")}
    asked |= {
        "regex": options.regex,
        "json_schema": _read(options, "json_schema"),
        "grammar": _read(options, "grammar"),
    }
    asked |= {"stop": [unescaped(mark) for mark in options.stop], "allow_unknown": options.allow_unknown}
    if options.stream and not options.json:
        if len(prompts) != 1:
            raise UsageError(f"--stream shows one text, but there are {len(prompts)} prompts", "leave out --stream")
        _stream(lm, prompts[0], strategy, asked)
        return 0
    generations = [each for several in lm.generate_all(prompts, strategy, **asked) for each in several]
    if options.json:
        seed = getattr(strategy, "seed", None)
        print_json([_told(generation) | {"seed": seed} for generation in generations])
        return 0
    _print(generations)
    return 0


def _prompts(options: argparse.Namespace) -> list[str]:
    if options.prompts is None:
        return [options.prompt or ""]
    if options.prompt is not None:
        raise UsageError("--prompt and --prompts were both given", "leave one of them out")
    prompts = _read(options, "prompts")
    if not prompts:
        raise UsageError(f"--prompts {options.prompts} has no line", "write one prompt a line")
    return prompts.splitlines()


def _read(options: argparse.Namespace, name: str) -> str | None:
    """The text of the file that an option names."""
    path = getattr(options, name)
    try:
        return None if path is None else Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        flag = "--" + name.replace("_", "-")
        raise UsageError(f"{flag} {path} cannot be read ({error})", "name a text file") from error


def _told(generation: Any) -> dict[str, Any]:
    told = asdict(generation)
    return told if generation.written else {name: value for name, value in told.items() if name != "written"}


def _print(generations: Sequence[Any]) -> None:
    for number, generation in enumerate(generations, 1):
        if len(generations) > 1:
            figures = f"log p {generation.logp:.2f} nats · perplexity {generation.perplexity:.2f} · {generation.end}"
            print(f"--- {number} · {generation.tokens} tokens · {figures}")
        print(generation.prompt + generation.text)
        for token in generation.written:
            print(f"  {token.text!r}: log p {token.logp:.3f}, after the processors {token.chain_logp:.3f} nats")
            for name, left, mass in token.trace:
                print(f"      {name} left {left} tokens, {mass:.4f} of the mass")
            for text, logp, chain_logp in token.alternatives:
                print(f"      {text!r}: {logp:.3f}, {chain_logp:.3f}")


def _stream(lm: Any, prompt: str, strategy: Any, asked: dict[str, Any]) -> None:
    """Print a sample as it is written; a beam's best text a line a step, since it may change its mind."""
    if asked["n"] > 1 and not strategy.revises:
        raise UsageError(f"--stream shows one text, but -n is {asked['n']}", "leave out -n, or --stream")
    if not strategy.revises:
        print(prompt, end="", flush=True)
    for step in lm.stream(prompt, strategy, **asked):
        if strategy.revises and step.texts:
            print(prompt + step.texts[0].replace("\n", "\\n"), flush=True)
        elif not strategy.revises:
            sys.stdout.write(step.new)
            sys.stdout.flush()
    if not strategy.revises:
        print()
