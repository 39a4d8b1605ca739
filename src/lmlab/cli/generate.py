"""Write: continue a prompt by greedy choice, sampling, or beam search.

--temperature, --top-k, --top-p and the others are applied in the order in which you write them; the order changes the
result.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab generate runs/lstm --prompt "ROMEO:" --temperature 0.8 --top-k 40 --top-p 0.95 -n 3 --max-tokens 200 --seed 1
  lmlab generate runs/kn5 --prompt "to be" --strategy beam --beams 5 -n 5
  lmlab generate runs/lstm --prompt "KING" --strategy greedy --stop "\\n\\n" --stream
  lmlab generate runs/lstm --prompt "ROMEO:" --mix runs/kn6 --adapt cache"""

_PROCESSORS = {
    "temperature": (float, "divide the logits by T: below 1 bolder, 0 greedy"),
    "top_k": (int, "only the K likeliest tokens"),
    "top_p": (float, "only the smallest set of tokens whose mass reaches P (nucleus)"),
    "min_p": (float, "only tokens at least P times as likely as the likeliest"),
    "typical": (float, "only the most typical tokens of mass P"),
    "repetition_penalty": (float, "divide a token's probability by X for each time it came"),
    "no_repeat_ngram": (int, "never the same N tokens twice"),
}


class _InOrder(argparse.Action):
    """Collects processors in the order of the command line."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        named = getattr(namespace, "processors", None) or {}
        named.pop(self.metavar_name, None)
        namespace.processors = {**named, self.metavar_name: values}

    @property
    def metavar_name(self) -> str:
        return self.option_strings[0].removeprefix("--").replace("-", "_")


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="a model directory, or hf:PATH_OR_NAME")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what to go on from (default nothing)")
    parser.add_argument("--strategy", default=None, metavar="NAME", help="sample (default), greedy or beam")
    parser.add_argument("-n", type=int, default=1, metavar="N", help="how many continuations")
    parser.add_argument("--max-tokens", type=int, default=200, metavar="N", help="at most N tokens each (default 200)")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of sampling; repeats the same text")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end where TEXT appears; \\n is a newline"
    )
    parser.add_argument("--stream", action="store_true", help="show the text as it grows")
    parser.add_argument(
        "--allow-unknown", action="store_true", help="read and write what the vocabulary lacks as [UNK]"
    )
    parser.add_composition()
    group = parser.add_argument_group("sampling, applied in the order given")
    for name, (kind, help) in _PROCESSORS.items():
        flag = "--" + name.replace("_", "-")
        group.add_argument(
            flag, type=kind, action=_InOrder, dest="processors", metavar=kind.__name__[0].upper(), help=help
        )
    group = parser.add_argument_group("beam search")
    group.add_argument("--beams", type=int, default=None, metavar="N", help="hypotheses kept (default 5)")
    group.add_argument("--length-penalty", type=float, default=None, metavar="A", help="score = log p / length ** A")


def strategy_of(options: argparse.Namespace) -> Any:
    """The strategy that the options name; options of another strategy are refused."""
    from lmlab.decoding import Beam, Greedy, Sample
    from lmlab.errors import UnknownNameError

    name = options.strategy or ("sample" if options.beams is None else "beam")
    sampling = {"--" + option.replace("_", "-"): value for option, value in (options.processors or {}).items()}
    beams = {"--beams": options.beams, "--length-penalty": options.length_penalty}
    foreign = {"sample": beams, "greedy": {**beams, **sampling}, "beam": sampling}
    if name not in foreign:
        raise UnknownNameError("strategy", name, foreign)
    for option, value in foreign[name].items():
        if value is not None:
            raise UsageError(f"{option} means nothing to --strategy {name}", "leave it out, or name another strategy")
    if name == "greedy":
        return Greedy()
    if name == "beam":
        named = {"length_penalty": options.length_penalty} if options.length_penalty is not None else {}
        return Beam(width=max(5, options.n) if options.beams is None else options.beams, **named)
    return Sample(seed=options.seed, **(options.processors or {}))


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
    lm = TextModel.load(options.run_folder).composed(options.adapt, options.mix, reporter_of(options))
    stop = [unescaped(mark) for mark in options.stop]
    asked = {"n": options.n, "max_tokens": options.max_tokens, "stop": stop, "allow_unknown": options.allow_unknown}
    if options.stream and not options.json:
        _stream(lm, options, strategy, asked)
        return 0
    generations = lm.generate(options.prompt, strategy, **asked)
    if options.json:
        print_json([asdict(generation) | {"seed": getattr(strategy, "seed", None)} for generation in generations])
        return 0
    _print(generations)
    return 0


def _print(generations: Sequence[Any]) -> None:
    for number, generation in enumerate(generations, 1):
        if len(generations) > 1:
            print(f"--- {number} · {generation.tokens} tokens · log p {generation.logp:.2f} nats · {generation.end}")
        print(generation.prompt + generation.text)


def _stream(lm: Any, options: argparse.Namespace, strategy: Any, asked: dict[str, Any]) -> None:
    """Print a sample as it is written; a beam's best text a line a step, since it may change its mind."""
    if options.n > 1 and not strategy.revises:
        raise UsageError(f"--stream shows one text, but -n is {options.n}", "leave out -n, or --stream")
    if not strategy.revises:
        print(options.prompt, end="", flush=True)
    for step in lm.stream(options.prompt, strategy, **asked):
        if strategy.revises and step.texts:
            print(options.prompt + step.texts[0].replace("\n", "\\n"), flush=True)
        elif not strategy.revises:
            sys.stdout.write(step.new)
            sys.stdout.flush()
    if not strategy.revises:
        print()
