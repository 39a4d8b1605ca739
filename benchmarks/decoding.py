"""What does one step a token buy? Tokens/s of each strategy and family, one text at a time, beside re-reading.

    LMLAB_DATA=... python benchmarks/decoding.py

Every family is trained for one step with its default settings, an n-gram counted whole: speed does not hang on what
the weights say. The peer is the same model asked to read its whole prefix again for every token, as notebooks do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common import Endless, machine, rate, short, table
from lmlab.decoding import Beam, Greedy, Sample, decode, finish
from lmlab.facade.learn import train
from lmlab.facade.text_model import TextModel
from lmlab.models.base import LanguageModel

FAMILIES = ("ngram", "cnn", "rnn", "lstm", "gru", "transformer")
STRATEGIES: dict[str, Greedy | Sample | Beam] = {"greedy": Greedy(), "sample": Sample(seed=0), "beam 5": Beam(width=5)}
AGAIN = "greedy, prefix again"

PROTOCOL = """\
Protocol: one run, fp32, {tokenizer} tokens of {source}, default settings of each family, one text of {tokens} tokens
from an empty prompt, `<eos>` forbidden; tokens/s of the finished text. The last column is greedy over prefix again."""


def make(family: str, source: str, tokenizer: str) -> TextModel:
    """A model of a family, made as quickly as it can be."""
    once = {"steps": 1, "evaluations": 0, "samples": False, "baseline": False}
    return train(source, tokenizer=tokenizer, model=family, seed=0, settings={"train": once, "data": {"split": "none"}})


def rates(model: LanguageModel, tokens: int) -> dict[str, float]:
    """Tokens/s of each strategy, and of greedy decoding that starts anew for every token."""
    endless = Endless(model)

    def by(strategy: Greedy | Sample | Beam) -> Callable[[int], int]:
        return lambda count: finish(decode(model, [], strategy, max_tokens=count, forbidden=[model.eos]))[0].length

    works = {name: by(strategy) for name, strategy in STRATEGIES.items()}
    works[AGAIN] = lambda count: len(read_again(endless, count))
    for work in works.values():
        work(5)  # first-time costs
    return {name: rate(lambda work=work: work(tokens)) for name, work in works.items()}  # type: ignore[misc]


def read_again(model: LanguageModel, count: int) -> list[int]:
    """Greedy decoding without a state."""
    ids: list[int] = []
    for _ in range(count):
        logp_BV, _ = model.start([ids])
        ids.append(int(logp_BV[0].argmax()))
    return ids


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the families asked for and print the table."""
    asked = _parser().parse_args(arguments)
    about = machine()
    found, head, rows = {}, ["family", "V", *STRATEGIES, AGAIN, "ratio"], []
    for family in asked.only or FAMILIES:
        print(family, file=sys.stderr, flush=True)
        lm = make(family, asked.source, asked.tokenizer)
        found[family] = rates(lm.model, asked.tokens)
        figures = [short(figure) for figure in found[family].values()]
        ratio = found[family]["greedy"] / found[family][AGAIN]
        rows.append([family, str(lm.tokenizer.vocab_size), *figures, f"{ratio:.1f}"])
    protocol = PROTOCOL.format(tokenizer=asked.tokenizer, source=asked.source, tokens=asked.tokens)
    print(about, table(head, rows), protocol, sep="\n\n")
    if asked.json:
        content = {"machine": about, "protocol": protocol, "tokens_per_second": found}
        asked.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/decoding.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", default="tinyshakespeare", help="a file or a named corpus")
    parser.add_argument("--tokenizer", default="char", help="char, byte, word, code, bpe")
    parser.add_argument("--tokens", type=int, default=200, help="length of each text")
    parser.add_argument("--only", action="append", choices=FAMILIES, metavar="FAMILY", help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return parser


if __name__ == "__main__":
    main()
