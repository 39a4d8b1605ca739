"""What training.py has done in processes of their own: one side of one row, set up once and then asked for rates.

A job that is set up says null; then a question is a line of JSON on standard input, the answer one on standard output.
The head imports the standard library alone: the interpreter that knows JAX may know neither lmlab nor torch, and our
side must set its machine up before torch is there.

Shapes: B rows, T positions, E embedding, H hidden, V the vocabulary, N ids of the text.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TOKENS = 2_000_000  # of a made-up text
LINE = "To be, or not to be, that is the question:\n"
STEPS = 300  # of a run on a large text
CUTS = ("columns", "windows", "lines")


@dataclass(frozen=True)
class Row:
    """A model and the way its text is cut, for both sides.

    Attributes:
        vocab_size, embedding, hidden: of the model.
        cut: windows (drawn at random), lines (padded) or columns (the state carried).
        rows, length: of a batch.
        layers: convolutions; None is a recurrent network of one layer.
        softmax: of our side.
        goals: times as fast as plain, must and aim; None where nobody set any.
        kind: of a recurrent layer.
    """

    vocab_size: int
    embedding: int
    hidden: int
    cut: str
    rows: int
    length: int
    goals: tuple[float, float] | None
    layers: int | None = None
    softmax: str = "full"
    kind: str = "lstm"

    def small(self) -> Row:
        """The same in a moment: for the tests."""
        return replace(self, vocab_size=min(self.vocab_size, 1100), rows=4, length=min(self.length, 16), hidden=16)


_CHARACTERS = Row(136, 16, 256, "windows", 64, 512, (3, 3.5))
_WORDS = Row(40_003, 300, 50, "windows", 32, 32, (2.5, 4))
ROWS = {
    "char LSTM 256, 64x512": _CHARACTERS,
    "the same on ragged lines": Row(136, 16, 256, "lines", 64, 512, (4, 6)),
    "causal CNN, 4 layers of 64, k5, 64x512": Row(136, 16, 64, "windows", 64, 512, (3, 4), layers=4),
    "LSTM 300/50, V=40,003, 32x32": _WORDS,
    "the same, adaptive softmax": replace(_WORDS, softmax="adaptive", goals=(7, 10)),
    "word LSTM 64/64, V=12,000, columns 16x32": Row(12_000, 64, 64, "columns", 16, 32, (2, 3)),
    "char GRU 256, 64x512": replace(_CHARACTERS, kind="gru", goals=None),
}
JAX_ROW = next(iter(ROWS))


def _text(row: Row, quick: bool) -> Any:
    """A store: for lines AG News as the arxiv recipes read it, else one document whose ids fall off as Zipf's law."""
    import numpy as np

    from lmlab.tokens.id_store import TokenStore
    from lmlab.vocabulary import BOS, EOS, SPECIALS

    if row.cut == "lines" and not quick:
        import notebooks

        return notebooks.prepared_for(notebooks.EXPERIMENTS["arxiv-lstm"]).stores["train"]
    rng, many = np.random.default_rng(0), TOKENS // 100 if quick else TOKENS
    ranks = np.arange(1, row.vocab_size + 1 - len(SPECIALS))
    ids_N = rng.choice(ranks, many, p=(1 / ranks) / (1 / ranks).sum()) + len(SPECIALS) - 1
    ends = np.arange(0, many, 50) if row.cut == "lines" else np.zeros(1, np.int64)
    ids_N[ends], ids_N[ends - 1] = BOS, EOS
    offsets = np.append(ends, many)
    return TokenStore(ids_N.astype(np.uint16), offsets, row.vocab_size, len(ends), many - len(ends), 0, 0, 0, 0, "")


def plain(name: str, quick: bool) -> Callable[[float], float]:
    """The notebook's own kind of loop, torch as it comes."""
    import numpy as np
    import torch
    from torch import nn

    import notebook_loops as loops

    row = ROWS[name].small() if quick else ROWS[name]
    torch.set_num_threads(1)
    text = _text(row, quick)
    size = text.vocab_size
    if row.layers:
        network: Any = loops.ConvNet(size, row.embedding, row.hidden, row.layers, kernel=5, residual=False)
    else:
        network = loops.RecurrentNet(size, row.embedding, row.hidden, {"lstm": nn.LSTM, "gru": nn.GRU}[row.kind])
    ids_N = np.asarray(text.ids)
    documents = np.split(ids_N, text.offsets[1:-1])
    train: Callable[[float], loops.Run] = {
        "windows": lambda m: loops.train_windows(network, ids_N, m, True, rows=row.rows, length=row.length),
        "lines": lambda m: loops.train_lines(network, documents, m, row.length, rows=row.rows),
        "columns": lambda m: loops.train_columns(network, ids_N, m),
    }[row.cut]

    def answer(seconds: float) -> float:
        began = time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):
            run = train(seconds / 60)
        return run.tokens / (time.process_time() - began)

    answer(0)
    return answer


def ours(name: str, quick: bool) -> Callable[[float], dict[str, Any]]:
    """`Fit`, on a machine set up as `lmlab train` does it."""
    from lmlab.training import machine

    machine.tune_process()
    row = ROWS[name].small() if quick else ROWS[name]
    model, fit = _fit(row, _text(row, quick))
    matrices = [p.numel() for n, p in model.named_parameters() if p.ndim > 1 and not n.startswith("embedding")]

    def answer(seconds: float) -> dict[str, Any]:
        tokens, spent, precision = fit(max(2, round(seconds / pace)))
        return {"rate": tokens / spent, "flop_per_token": 6 * sum(matrices), "precision": precision}

    pace = fit(2)[1] / 2  # with its first-time costs
    pace = fit(2)[1] / 2
    return answer


def _fit(row: Row, text: Any) -> tuple[Any, Callable[[int], tuple[int, float, str]]]:
    """A model, and what trains it for some steps: tokens, CPU seconds, precision."""
    import torch

    from lmlab import registry
    from lmlab.facade.prepare import training_batches
    from lmlab.train_settings import TrainSettings
    from lmlab.training.events import Began, Event, Stepped
    from lmlab.training.fit import Fit

    torch.manual_seed(0)
    kind = registry.resolve("model", "cnn" if row.layers else row.kind)
    shape = {"channels": row.hidden, "layers": row.layers, "residual": False} if row.layers else {"hidden": row.hidden}
    chosen = kind.Settings(embedding=row.embedding, dropout=0.0, softmax=row.softmax, **shape)
    model = kind(chosen, text.vocab_size)
    settings = TrainSettings(
        batching=row.cut, batch_size=row.rows, length=row.length, lr=1e-3, evaluations=0, samples=False, threads=1
    )
    batches = training_batches(text, settings, 0)

    def fit(steps: int) -> tuple[int, float, str]:
        times: list[float] = []

        def listen(event: Event) -> None:
            if isinstance(event, Began | Stepped):
                times.append(time.process_time())

        done = Fit(model, batches, replace(settings, steps=steps), listeners=[listen]).go().progress
        return done.tokens, times[-1] - times[0], done.precision

    return model, fit


def peak(name: str, quick: bool) -> Callable[[float], dict[str, float]]:
    """Floating-point operations a second of a matrix product on this core."""
    import torch

    import common

    torch.set_num_threads(1)
    return lambda _: {name: common.gemm(kind, 64 if quick else 1024) for kind, name in common.KINDS}


def jax(name: str, quick: bool) -> Callable[[float], float]:
    """The row's LSTM in JAX: one jitted step, `lax.scan` over time, Adam by hand; fp32."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    jx, jnp, np = (importlib.import_module(module) for module in ("jax", "jax.numpy", "numpy"))
    row = ROWS[name].small() if quick else ROWS[name]
    wide = 4 * row.hidden
    shapes = {
        "table": (row.vocab_size, row.embedding),
        "enter": (row.embedding, wide),
        "again": (row.hidden, wide),
        "bias": (wide,),
        "head": (row.hidden, row.vocab_size),
        "head_bias": (row.vocab_size,),
    }
    rng = np.random.default_rng(0)
    weights = {key: jnp.asarray(rng.normal(0, 0.05, shape), jnp.float32) for key, shape in shapes.items()}
    zeros = jx.tree.map(jnp.zeros_like, weights)

    def loss(w: Any, ids_BT: Any) -> Any:
        entered_TBG = w["table"][ids_BT[:, :-1].T] @ w["enter"] + w["bias"]

        def cell(state: Any, entered_BG: Any) -> Any:
            h_BH, c_BH = state
            i, f, g, o = jnp.split(entered_BG + h_BH @ w["again"], 4, axis=-1)
            c_BH = jx.nn.sigmoid(f) * c_BH + jx.nn.sigmoid(i) * jnp.tanh(g)
            h_BH = jx.nn.sigmoid(o) * jnp.tanh(c_BH)
            return (h_BH, c_BH), h_BH

        start = jnp.zeros((len(ids_BT), row.hidden))
        _, hidden_TBH = jx.lax.scan(cell, (start, start), entered_TBG)
        logp_TBV = jx.nn.log_softmax(hidden_TBH @ w["head"] + w["head_bias"])
        return -jnp.take_along_axis(logp_TBV, ids_BT[:, 1:].T[..., None], -1).mean()

    @jx.jit
    def step(w: Any, first: Any, second: Any, count: Any, ids_BT: Any) -> Any:
        value, slope = jx.value_and_grad(loss)(w, ids_BT)
        first = jx.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = jx.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slope)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        w = jx.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), w, first, second)
        return w, first, second, value

    state = weights, zeros, zeros

    def answer(seconds: float) -> float:
        nonlocal state
        began, cpu = time.perf_counter(), time.process_time()
        for count in itertools.count(1):
            ids_BT = rng.integers(0, row.vocab_size, (row.rows, row.length + 1))
            *state, value = step(*state, float(count), ids_BT)
            value.block_until_ready()
            if time.perf_counter() - began >= seconds:
                break
        return count * row.rows * row.length / (time.process_time() - cpu)

    answer(0)
    return answer


# -- memory -----------------------------------------------------------------------------------------------------------


def chunked_loss(kind: str, quick: bool) -> Callable[[], dict[str, float]]:
    """MB that a loss and its gradients take at their peak, beyond what goes in."""
    import torch

    from lmlab.kernels.neural.loss import cross_entropy_sum

    rows, size = (1024, 1100) if quick else (4096, 40_003)

    def answer() -> dict[str, float]:
        features, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((rows, 50), (size, 50), (size,)))
        targets = torch.randint(4, size, (rows,))
        cross_entropy_sum(features[:8], weight[:1100], bias[:1100], targets[:8] % 1100).backward()  # first-time costs
        features.grad = weight.grad = bias.grad = None
        before = _memory()["VmRSS"]
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            loss = cross_entropy_sum(features, weight, bias, targets)
        loss.backward()
        return {"rows": rows, "V": size, "MB": _memory()["VmHWM"] - before}

    return answer


def large_text(name: str, quick: bool) -> Callable[[float], dict[str, tuple[float, float]]]:
    """MB of this process after each stage: a text of so many MB encoded, then some hundred steps on each cut.

    The peak, which counts what is mapped of the ids' file too, and the memory of its own, which it keeps when freed.
    """
    from lmlab.training import machine

    machine.tune_process()
    from lmlab.corpora.document import Document
    from lmlab.tokens import build_tokenizer
    from lmlab.tokens.id_store import TokenStore

    def answer(megabytes: float) -> dict[str, tuple[float, float]]:
        page = Document("".join(f"{number} {LINE}" for number in range(2000)))
        many = max(1, round(megabytes * 1e6 / len(page.text)))
        with tempfile.TemporaryDirectory() as folder:
            TokenStore.build(Path(folder, "store"), build_tokenizer("char", {}, [page]), itertools.repeat(page, many))
            found = {"encoding": _peak_and_own()}
            text = TokenStore.open(Path(folder, "store"))
            for cut in CUTS:
                _, fit = _fit(Row(text.vocab_size, 16, 64, cut, 16, 64, (0, 0)), text)
                fit(5 if quick else STEPS)
                found[cut] = _peak_and_own()
        return found

    return answer


def _peak_and_own() -> tuple[float, float]:
    now = _memory()
    return now["VmHWM"], now["RssAnon"]


def _memory() -> dict[str, float]:
    """MB of this process, as Linux counts them."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.endswith("kB")]
    return {key.rstrip(":"): int(value) / 1e3 for key, value, _ in lines}


JOBS: dict[str, Callable[[str, bool], Callable[..., Any]]] = {
    job.__name__: job for job in (plain, ours, peak, jax, chunked_loss, large_text)
}


def main(job: str, name: str, quick: str) -> None:
    """Do a job until there are no more questions."""
    answer = JOBS[job](name, quick == "quick")
    print("null", flush=True)
    for question in sys.stdin:
        print(json.dumps(answer(*json.loads(question))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
