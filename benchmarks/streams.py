"""What a token of generated text costs beside the loops that others run: ratios within one run, on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/streams.py

A peer that is not installed (transformers, kenlm) is left out.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common import machine, short, table
from lmlab.decoding import Beam, Sample, Strategy, decode_all, finish_all
from lmlab.kernels.jit import jit, jit_sums
from lmlab.models.neural.rnn import LSTM, RecurrentSettings
from lmlab.models.ngram.arpa import write
from lmlab.models.ngram.model import Ngram
from lmlab.vocabulary import BOS, EOS

VOCAB, HIDDEN, ORDER, TURNS = 136, 256, 5, 7
Work = tuple[Callable[[int], None], int]  # what makes so many tokens of each text, and how many a turn

PROTOCOL = f"""\
Protocol: one run, one thread, fp32, random weights (speed does not hang on what they say): LSTM {HIDDEN} with embedding
16, GPT-2 of 2 layers x 128, V = {VOCAB}; {ORDER}-grams of 100,000 random tokens; empty prompt, `<eos>` forbidden;
seconds of the processor, medians of {TURNS} turns, each work once a turn. A ratio is the peer's median over ours; what
memory allows is how often the recurrent and the output weights, 1.19 MB, can be read and added up."""


def ours(model: Any, strategy: Strategy, rows: int = 1) -> Callable[[int], None]:
    """Texts by lmlab, as whoever calls `decode` has them."""
    return lambda count: void(finish_all(decode_all(model, [[]], strategy, n=rows, max_tokens=count, forbidden=[EOS])))


def void(_: object) -> None:
    """Nothing of it."""


def stateful(rows: int = 1) -> Callable[[int], None]:
    """The loop of a notebook: embedding, nn.LSTM, linear, softmax, multinomial."""
    embedding, network, output = nn.Embedding(VOCAB, 16), nn.LSTM(16, HIDDEN), nn.Linear(HIDDEN, VOCAB)

    @torch.inference_mode()
    def sample(count: int) -> None:
        tokens_1B, state = torch.zeros(1, rows, dtype=torch.long), None
        for _ in range(count):
            hidden_1BH, state = network(embedding(tokens_1B), state)
            tokens_1B = torch.multinomial(output(hidden_1BH[0]).softmax(-1), 1).T

    return sample


@jit_sums
def total(numbers_N):  # type: ignore[no-untyped-def]
    """The sum, so that all are read."""
    found = np.float32(0)
    for at in range(len(numbers_N)):
        found += numbers_N[at]
    return found


@jit
def read(numbers_N, count):  # type: ignore[no-untyped-def]
    """Read so many times."""
    found = np.float32(0)
    for _ in range(count):
        found += total(numbers_N)
    return found


def reading(lstm: LSTM) -> Callable[[int], None]:
    """The weights that each token needs, read and nothing else: what memory allows."""
    named = lstm.state_dict()
    needed = [named[name].numpy().ravel() for name in ("recurrent.weight_hh_l0", "output.weight")]
    return lambda count: void(read(np.concatenate(needed), count))


def gpt2(**asked: Any) -> Callable[[int], None]:
    """Transformers' own generate()."""
    transformers = importlib.import_module("transformers")
    config = transformers.GPT2Config(vocab_size=VOCAB, n_layer=2, n_embd=128, n_head=4, eos_token_id=None)
    network, prompt = transformers.GPT2LMHeadModel(config).eval(), torch.ones(1, 1, dtype=torch.long)
    return lambda count: void(network.generate(prompt, min_new_tokens=count, max_new_tokens=count, **asked))


def kenlm_loop(model: Ngram, folder: Path) -> Callable[[int], None]:
    """Kenlm asked for every word of the vocabulary, then a draw in NumPy."""
    kenlm: Any = importlib.import_module("kenlm")
    words = [f"w{id}" for id in range(4, model.vocab_size)]
    write(folder / "model.arpa", model.fast_trie, [word.encode() for word in words])
    peer, rng = kenlm.Model(str(folder / "model.arpa")), np.random.default_rng(0)

    def sample(count: int) -> None:
        state, after = kenlm.State(), [kenlm.State() for _ in words]
        peer.BeginSentenceWrite(state)
        for _ in range(count):
            p_V = 10 ** np.array([peer.BaseScore(state, word, to) for word, to in zip(words, after, strict=True)])
            drawn = int(p_V.cumsum().searchsorted(rng.random() * p_V.sum()))
            state, after[drawn] = after[drawn], state

    return sample


def counted(vocab_size: int) -> Ngram:
    """An n-gram model of random text, a few tokens far commoner than others."""
    ids_N = 4 + (np.random.default_rng(0).pareto(1.0, 100_000) * 3).astype(np.int64) % (vocab_size - 4)
    ids_N[0], ids_N[-1] = BOS, EOS
    return Ngram.estimate(Ngram.Settings(order=ORDER), vocab_size, ids_N.astype(np.uint32))


def works(folder: Path) -> dict[str, tuple[Work, Work]]:
    """Of each figure the peer and us."""
    lstm = LSTM(RecurrentSettings(hidden=HIDDEN, embedding=16), VOCAB).eval()
    sample, cut = Sample(seed=0), Sample("top_k=40,top_p=0.9", seed=0)
    one, few, many = (stateful(), 100), (ours(lstm, sample), 1000), 256
    found = {
        "LSTM, nn.LSTM's loop": (one, few),
        "LSTM, the same, texts of 200 tokens": (one, (ours(lstm, sample), 200)),
        "LSTM, top-k 40 + top-p 0.9, nn.LSTM's loop": (one, (ours(lstm, cut), 1000)),
        "LSTM, share of what memory allows": ((reading(lstm), 1000), few),
        "LSTM, 256 texts, nn.LSTM's loop": ((stateful(many), 20), (ours(lstm, sample, many), 20)),
    }
    if importlib.util.find_spec("transformers"):
        found["LSTM, GPT-2's generate()"] = (gpt2(do_sample=True), 100), few
        found["LSTM, beam 5, GPT-2's generate()"] = (gpt2(num_beams=5), 50), (ours(lstm, Beam(width=5)), 200)
    for name, size in (("characters", VOCAB), ("words", 5000)):
        model = counted(size)
        if importlib.util.find_spec("kenlm"):
            peer = kenlm_loop(model, folder), 100 if size == VOCAB else 10
            found[f"5-gram, {name} (V = {size}), kenlm + NumPy"] = peer, (ours(model, sample), 1000)
    return found


def main() -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        figures = works(Path(folder))
        seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in figures}
        for turn in range(TURNS + 1):
            print(f"turn {turn} of {TURNS}", file=sys.stderr, flush=True)
            for name, pair in figures.items():
                for (work, count), taken in zip(pair, seconds[name], strict=True):
                    began = time.process_time()
                    work(count)
                    if turn:  # the first pays for what comes once
                        taken.append((time.process_time() - began) / count)
    rows = []
    for name, (theirs, own) in seconds.items():
        peer, us = statistics.median(theirs), statistics.median(own)
        rows.append([name, short(1 / peer), short(1 / us), short(peer / us)])
    print(
        about, table(["what, beside which peer", "peer, steps/s", "ours, steps/s", "ratio"], rows), PROTOCOL, sep="\n\n"
    )


if __name__ == "__main__":
    main()
