"""A Hugging Face model through lmlab beside its own `generate()`: milliseconds a token, the same text from both.

    python benchmarks/hf.py                  # a random GPT-2 of two layers and 256 features, vocabulary 136
    python benchmarks/hf.py --model smollm2  # hf:smollm2, fetched by pip

Both decode in turn, several times, on one thread; the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lmlab
from common import Endless, machine, table
from lmlab.decoding import Beam, Greedy, Sample, decode, finish
from lmlab.models.hf import SHIFT, HuggingFaceModel

STRATEGIES = {
    "greedy": (Greedy(), {}),
    "sample": (Sample(seed=0), {"do_sample": True, "top_k": 0}),
    "sample, top-k 40, top-p 0.9": (
        Sample(top_k=40, top_p=0.9, seed=0),
        {"do_sample": True, "top_k": 40, "top_p": 0.9},
    ),
    "beam 5": (Beam(width=5), {"num_beams": 5}),
}


def tiny() -> HuggingFaceModel:
    """A random GPT-2 of the size of a character model."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=136, n_positions=1024, n_embd=256, n_layer=2, n_head=4, bos_token_id=135, eos_token_id=135
    )
    return HuggingFaceModel(GPT2LMHeadModel(config).eval(), 135, [135])


def seconds(works: Sequence[Callable[[], None]], tokens: int, rounds: int) -> list[float]:
    """Median seconds a token of each work, the works taking turns after one round of warming up."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + 1):
        for work, seen in zip(works, taken, strict=True):
            began = time.perf_counter()
            work()
            if turn:
                seen.append((time.perf_counter() - began) / tokens)
    return [statistics.median(seen) for seen in taken]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each strategy and print the table."""
    parser = argparse.ArgumentParser(prog="python benchmarks/hf.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="what would follow hf: (default a random GPT-2)")
    parser.add_argument("--tokens", type=int, default=100, help="length of each text")
    parser.add_argument("--rounds", type=int, default=5, help="how often both take turns")
    parser.add_argument("--only", action="append", choices=STRATEGIES, help="repeatable")
    asked = parser.parse_args(arguments)
    about = machine()
    torch.set_num_threads(1)
    model: HuggingFaceModel = lmlab.load(f"hf:{asked.model}").model if asked.model else tiny()
    endless, prompt = Endless(model), list(range(SHIFT + 20, SHIFT + 28))
    native = torch.tensor([[int(model._native_V[model.bos]), *(id - SHIFT for id in prompt)]])
    shared = {"attention_mask": torch.ones_like(native), "max_new_tokens": asked.tokens, "pad_token_id": 0}
    shared |= {"min_new_tokens": asked.tokens}
    rows = []
    for name in asked.only or STRATEGIES:
        strategy, how = STRATEGIES[name]
        how = {"do_sample": False, **how}

        def ours(strategy: Greedy | Sample | Beam = strategy) -> None:
            finish(decode(endless, prompt, strategy, max_tokens=asked.tokens))

        def theirs(how: dict[str, object] = how) -> None:
            model.network.generate(native, **shared, **how)

        here, there = seconds([ours, theirs], asked.tokens, asked.rounds)
        rows.append([name, f"{1e3 * here:.2f}", f"{1e3 * there:.2f}", f"{here / there:.2f}"])
    print(about, table(["strategy", "lmlab, ms", "generate(), ms", "ratio"], rows), sep="\n\n")


if __name__ == "__main__":
    main()
