"""What a token of generated text costs beside the loops that others run: ratios within one run, on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/streams.py [WORDS]

Words choose the rows whose names have them all.

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
from torch import Tensor, nn
from torch.nn import functional as F

from common import Endless, machine, short, table
from lmlab.decoding import Beam, Sample, Strategy, decode_all, finish_all
from lmlab.kernels.jit import jit, jit_sums
from lmlab.models.neural.cnn import CNN
from lmlab.models.neural.rnn import LSTM, RecurrentSettings
from lmlab.models.neural.transformer import Transformer
from lmlab.models.ngram.arpa import write
from lmlab.models.ngram.model import Ngram
from lmlab.vocabulary import BOS, EOS

VOCAB, HIDDEN, ORDER, TURNS = 136, 256, 5, 7
Work = tuple[Callable[[int], None], int]  # what makes so many tokens of each text, and how many a turn

PROTOCOL = f"""\
Protocol: one run, one thread, fp32, random weights (speed does not hang on what they say): LSTM {HIDDEN} with embedding
16, GPT-2 of 2 layers x 128, Transformer and CNN of default settings, V = {VOCAB}; {ORDER}-grams of 100,000 random
tokens; empty prompt, `<eos>` forbidden; seconds of the processor, medians of {TURNS} turns, each work once a turn. A
ratio is the peer's median over ours; what memory allows is how often the recurrent and the output weights, 1.19 MB, can
be read and added up."""


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


class CachedBlock(nn.Module):
    """A block of lmlab's Transformer by PyTorch's modules, its keys and values kept by `torch.cat`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.project, self.attended = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD: Tensor, turn: Callable[[Tensor], Tensor], past: list[Tensor], window: int) -> Tensor:
        """One position; `past` is replaced."""
        new_3BATF = self.project(self.norms[0](x_BTD)).view(1, 1, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key = (turn(F.rms_norm(part, part.shape[-1:])) for part in new_3BATF[:2])
        new = key, new_3BATF[2]
        past[:] = [torch.cat([old, part], 2)[:, :, -window:] for old, part in zip(past, new, strict=True)]
        seen = F.scaled_dot_product_attention(query, *past)
        x_BTD = x_BTD + self.attended(seen.transpose(1, 2).reshape(x_BTD.shape))
        wide: Tensor = F.relu(self.widen(self.norms[1](x_BTD))).square()
        return x_BTD + self.narrow(wide)


def cached(width: int = 192, layers: int = 4, heads: int = 6, window: int = 256) -> Callable[[int], None]:
    """The same Transformer in plain PyTorch, one position a call."""
    embedding, norm, output = nn.Embedding(VOCAB, width), nn.RMSNorm(width), nn.Linear(width, VOCAB)
    blocks, half = [CachedBlock(width, heads) for _ in range(layers)], width // heads // 2
    angles = torch.outer(torch.arange(4096.0), 10_000 ** (-torch.arange(half) / half))
    cosines, sines = angles.cos(), angles.sin()

    @torch.inference_mode()
    def sample(count: int) -> None:
        token, past = torch.zeros(1, 1, dtype=torch.long), [[torch.empty(1, heads, 0, 2 * half)] * 2 for _ in blocks]
        for place in range(count):

            def turn(x: Tensor, cos: Tensor = cosines[place], sin: Tensor = sines[place]) -> Tensor:
                one, other = x.chunk(2, -1)
                return torch.cat([one * cos - other * sin, one * sin + other * cos], -1)

            x_BTD = embedding(token)
            for block, kept in zip(blocks, past, strict=True):
                x_BTD = block(x_BTD, turn, kept, window)
            token = torch.multinomial(output(norm(x_BTD))[0].softmax(-1), 1)

    return sample


def windows() -> dict[str, tuple[Work, Work]]:
    """Of the networks that look at a window: beside plain PyTorch, or torch's own step of the same network."""
    sample = Sample(seed=0)
    transformer = Transformer(Transformer.Settings(), VOCAB).eval()
    cnn = CNN(CNN.Settings(), VOCAB).eval()
    found: dict[str, tuple[Work, Work]] = {}
    for count in (200, 1000):
        few = ours(transformer, sample), count
        found[f"Transformer 4 x 192, {count} tokens, PyTorch with a cache"] = (cached(), count), few
    for name, model, count in (("Transformer", transformer, 10), ("CNN", cnn, 50)):
        plain, beam = Endless(model), Beam(width=5)
        found[f"{name}, torch's own step"] = (ours(plain, sample), count), (ours(model, sample), 200)
        found[f"{name}, beam 5, torch's own step"] = (ours(plain, beam), count), (ours(model, beam), 50)
        found[f"{name}, 64 texts, torch's own step"] = (
            (ours(plain, sample, 64), count // 5),
            (ours(model, sample, 64), 20),
        )
    return found


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
        every = works(Path(folder)) | windows()
        figures = {name: pair for name, pair in every.items() if all(word in name for word in sys.argv[1:])}
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
