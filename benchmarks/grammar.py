"""What does a grammar cost? Microseconds a token to say which ids may come next, beside choosing one.

python benchmarks/grammar.py
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from common import machine, short, table
from lmlab.corpora.document import Document
from lmlab.decoding import Beam, Grammar, Greedy, Sample, decode, finish
from lmlab.decoding.branch import Branch, Rows
from lmlab.models.toy import Uniform
from lmlab.tokens.base import Tokenizer, build_tokenizer
from lmlab.vocabulary import EOS

TOKENS = 200
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "born": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name", "born"],
    "x-guidance": {"whitespace_flexible": False},
}
LARK = 'start: sum\nsum: term ("+" term)*\nterm: /[0-9]{1,3}/ | "(" sum ")"'
# What is told, and a text of it that goes on.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "regex": ({"regex": "([a-z]+ )+"}, "the king saw a queen and the kin of kings "),
    "JSON": ({"json_schema": SCHEMA}, '{"name":"the king","born":[' + "1564,1616," * 50),
    "Lark": ({"lark": LARK}, "(12+3)+4+" * 20),
}
PROTOCOL = f"""\
Protocol: processor time, one thread. The first columns are microseconds a token to read one token and find the mask,
mean over {TOKENS} tokens of a text given (the characters of the vocabulary, for all V); the others are thousands of
tokens/s of a model that costs nothing, free, and under `[a-z ]{{{TOKENS}}}`."""


def tokenizer(vocab_size: int) -> Tokenizer:
    """The printable ASCII characters, or these and byte-pair merges of made-up words."""
    printable = "".join(map(chr, range(32, 127)))
    if vocab_size < 1000:
        return build_tokenizer("char", {}, [Document(printable)])
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
    words = " ".join(a + b + c for a in syllables for b in syllables[::3] for c in syllables[::3])
    return build_tokenizer("bpe", {"vocab_size": vocab_size, "min_count": 1}, [Document(printable), Document(words)])


def microseconds(known: Tokenizer, told: dict[str, Any], text: str) -> float:
    """A token's cost, reading a text character by character."""
    grammar, branch = Grammar(known, **told), Branch.root()
    ids = [int(id) for char in text for id in known.encode(char).ids][:TOKENS]
    grammar.allowed(Rows([[]], [branch], EOS))
    began = time.process_time()
    for id in ids:
        branch = Branch(id, 0.0, 0.0, 0.0, 0.0, 0.0, branch.length + 1, 0, branch)
        if not grammar.allowed(Rows([[]], [branch], EOS)).any():
            raise ValueError(f"{text!r} is no text of the grammar")
    return (time.process_time() - began) / len(ids) * 1e6


def speed(known: Tokenizer, strategy: Any, grammar: Grammar | None) -> float:
    """Thousands of tokens a second."""
    model, rates = Uniform(known.vocab_size), []
    for _ in range(3):
        began = time.process_time()
        finish(decode(model, [], strategy, max_tokens=TOKENS, forbidden=[EOS], grammar=grammar))
        rates.append(TOKENS / (time.process_time() - began))
    return max(rates) / 1000


def main() -> None:
    """Measure and print."""
    strategies = {"greedy": Greedy(), "sample": Sample(seed=1), "beam 5": Beam(width=5)}
    head = ["V", *CASES, *(f"{name}, {how}" for name in strategies for how in ("free", "regex"))]
    rows: list[Sequence[str]] = []
    for size in (100, 40_000):
        known = tokenizer(size)
        figures = [min(microseconds(known, *case) for _ in range(3)) for case in CASES.values()]
        grammar = Grammar(known, regex=f"[a-z ]{{{TOKENS}}}")
        figures += [speed(known, each, given) for each in strategies.values() for given in (None, grammar)]
        rows.append([str(known.vocab_size), *map(short, figures)])
    print(machine(), table(head, rows), PROTOCOL, sep="\n\n")


if __name__ == "__main__":
    main()
