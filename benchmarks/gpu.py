"""Does a GPU do what the processor does, and how fast? Three families beside plain PyTorch loops of like size.

    python benchmarks/gpu.py              (make gpu runs it after the tests marked `gpu`)
    python benchmarks/gpu.py -o results --only lstm

Writes gpu.json and gpu.md. Where torch finds no GPU it says so in one line and ends well. `--device cpu --quick` goes
through all of it in a minute without one: that is how the tests hold it.

Shapes: B rows, T positions, V the vocabulary.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import lmlab
from common import short, table
from lmlab.decoding import Sample, decode, finish
from lmlab.progress import Silent
from lmlab.training.events import Stepped
from notebook_loops import ConvNet, RecurrentNet

RESULTS = Path(__file__).parent / "results"
PROTOCOL = """\
Protocol: one run on one {card}; rounds of some {seconds:g} s a side: {rounds}, in turn, medians. Tokens a second of
wall time, of a made-up text of characters, the first steps not counted. Plain is the loop of a notebook with torch's
own modules of like size: random windows, Adam, mean cross-entropy, in fp32 as torch comes and in bf16 by autocast.
Ours is `lmlab.train` with batches of the same shape and `train.device={device}`; its fp32 is fp32, where plain's as
torch comes lets cuDNN round to TF32. Agreement with the processor is measured in batches of 4 rows. Decoding: `Sample`,
texts of {tokens} tokens from an empty prompt, fp32."""


@dataclass(frozen=True)
class Row:
    """One family: our model's settings, the batch, and a plain network of like size."""

    kind: str
    settings: dict[str, Any]
    rows: int
    length: int
    plain: Callable[[int], nn.Module]


class PlainTransformer(nn.Module):
    """torch's own encoder under a causal mask, with learned positions."""

    def __init__(self, vocab_size: int, width: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(vocab_size, width), nn.Embedding(length, width)
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BTV."""
        length = ids_BT.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=ids_BT.device)
        read = self.embedding(ids_BT) + self.position(torch.arange(length, device=ids_BT.device))
        logits_BTV: Tensor = self.head(self.blocks(read, mask=mask, is_causal=True))
        return logits_BTV


def rows_of(quick: bool) -> dict[str, Row]:
    """The families; small ones to see that everything works."""
    hidden, width, channels, layers, heads = (16, 16, 16, 2, 2) if quick else (1024, 384, 256, 6, 6)
    rows, length = (4, 16) if quick else (64, 256)
    lstm = {"hidden": hidden, "embedding": 64, "layers": 1, "dropout": 0.0}
    transformer = {"width": width, "layers": layers, "heads": heads, "window": length, "dropout": 0.0}
    cnn = {"channels": channels, "embedding": 64, "layers": 4, "kernel": 5, "residual": False, "dropout": 0.0}
    return {
        "lstm": Row("lstm", lstm, rows, length, lambda v: RecurrentNet(v, 64, hidden)),
        "transformer": Row(
            "transformer", transformer, rows, length, lambda v: PlainTransformer(v, width, layers, heads, length)
        ),
        "cnn": Row("cnn", cnn, rows, 2 * length, lambda v: ConvNet(v, 64, channels, 4, kernel=5, residual=False)),
    }


def made_up(characters: int) -> str:
    """Words of made-up letters, a few of them frequent, in lines."""
    drawn = random.Random(0)
    words = ["".join(drawn.choices("etaoinshrdlucmfwyp", k=drawn.randint(2, 9))) for _ in range(500)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    text = " ".join(drawn.choices(words, weights, k=characters // 4)).replace("e e", "e\n")
    return text[:characters]


# -- our side ---------------------------------------------------------------------------------------------------------


class Clock:
    """A listener that keeps when how many tokens were learned, and may interrupt once a step is reached."""

    def __init__(self, stop: int | None = None) -> None:
        self.seen: list[tuple[int, float]] = []
        self._stop = stop

    def __call__(self, event: object) -> None:
        """Note the time of a step, interrupt if it is the one."""
        if not isinstance(event, Stepped):
            return
        self.seen.append((event.tokens, time.perf_counter()))
        if self._stop is not None and event.step >= self._stop:
            self._stop = None
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C: the run saves and ends after this step

    @property
    def rate(self) -> float:
        """Tokens a second, the first fifth left out."""
        (before, began), (after, ended) = self.seen[len(self.seen) // 5], self.seen[-1]
        return (after - before) / (ended - began)


def train(source: Path, row: Row, device: str, precision: str, steps: int, **named: Any) -> Any:
    """`lmlab.train` as a user calls it; validation only where asked for."""
    chosen = {
        "device": device, "precision": precision, "steps": steps, "batching": "columns", "carry": False,
        "batch_size": row.rows, "length": row.length, "lr": 1e-3, "evaluations": 0, "samples": False,
        "baseline": False, "calibration_temperature": 1.0, "threads": 1 if device == "cpu" else None,
    }  # fmt: skip
    settings = {
        "model": {"kind": row.kind, **row.settings},
        "train": chosen,
        "data": {"split": named.pop("split", "none")},
    }
    return lmlab.train(str(source), tokenizer="char", seed=0, settings=settings, reporter=Silent(), **named)


def our_rate(source: Path, row: Row, device: str, precision: str, seconds: float) -> float:
    """Tokens a second of `lmlab.train`."""
    pilot, clock = Clock(), Clock()
    train(source, row, device, precision, 10, listeners=[pilot])
    steps = max(10, round(seconds * pilot.rate / (row.rows * row.length)))
    train(source, row, device, precision, steps, listeners=[clock])
    return clock.rate


# -- the plain side ---------------------------------------------------------------------------------------------------


def plain_rate(ids_N: Tensor, row: Row, vocab_size: int, device: str, precision: str, seconds: float) -> float:
    """Tokens a second of a notebook's loop."""
    torch.manual_seed(0)
    network = row.plain(vocab_size).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    ids_N, window = ids_N.to(device), torch.arange(row.length + 1, device=device)

    def step() -> None:
        starts_B = torch.randint(len(ids_N) - row.length, (row.rows,), device=device)
        ids_BT = ids_N[starts_B[:, None] + window]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            logits_BTV = network(ids_BT[:, :-1])
        loss = F.cross_entropy(logits_BTV.float().flatten(0, 1), ids_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    waited(device)
    began, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - began < seconds:
        for _ in range(5):
            step()
        waited(device)
        steps += 5
    return steps * row.rows * row.length / (time.perf_counter() - began)


def waited(device: str) -> None:
    """Until the GPU has done what it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


# -- checks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A figure that must not be above its bound."""

    what: str
    family: str
    figure: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether it is not; NaN is."""
        return self.figure <= self.bound


@contextmanager
def no_tf32() -> Iterator[None]:
    """fp32 is fp32: cuDNN rounds to TF32 as torch comes."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any number."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def agreement(source: Path, name: str, row: Row, device: str) -> list[Check]:
    """fp32: the same weights score alike on both, and a short training ends alike."""
    with no_tf32():
        there = train(source, row, device, "fp32", 20, split="0.98,0.02,0")
        here = train(source, row, "cpu", "fp32", 20, split="0.98,0.02,0")
        ids_BT = torch.as_tensor(there.held_out("valid").ids[1 : 1 + 4 * row.length].astype("int64")).view(4, -1)
        mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        on_processor = there.model.logp(ids_BT, mask_BT)
        moved = there.model.to(device)
        on_device = moved.logp(ids_BT.to(device), mask_BT.to(device)).cpu()
        moved.to("cpu")
    nats = [lm.manifest["results"]["valid"]["nats_per_token"] for lm in (there, here)]
    scores = float((on_processor - on_device).abs().max())
    return [
        Check("fp32, log-probability of a token: GPU and processor differ by", name, scores, 1e-4),
        Check("fp32, validation nats/token after 20 steps differ by", name, abs(nats[0] - nats[1]), 1e-4),
    ]


def half_precision(source: Path, name: str, row: Row, device: str, steps: int) -> Check:
    """bf16 learns what fp32 does."""
    nats = [
        train(source, row, device, precision, steps, split="0.98,0.02,0").manifest["results"]["valid"]["nats_per_token"]
        for precision in ("fp32", "bf16")
    ]
    return Check(f"bf16, validation nats/token after {steps} steps, over fp32", name, nats[1] - nats[0], 0.02)


def resumption(source: Path, name: str, row: Row, device: str, folder: Path) -> list[Check]:
    """Weights of a run that was interrupted and resumed beside those of one that was not, and of two that were not."""
    weights = {}
    for run, stop in (("whole", None), ("again", None), ("resumed", 10)):
        lm = train(source, row, device, "fp32", 20, listeners=[Clock(stop)], out=folder / name / run)
        if stop is not None:
            assert lm.manifest["status"] == "interrupted", lm.manifest["status"]
            lmlab.resume(folder / name / run, reporter=Silent())
        weights[run] = load_file(folder / name / run / "model.safetensors")
    return [
        Check("largest difference of a weight, run twice", name, furthest(weights["whole"], weights["again"]), 1e-3),
        Check("largest difference of a weight, resumed", name, furthest(weights["whole"], weights["resumed"]), 1e-3),
    ]


class _Loss(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor) -> Tensor:
        nats, _ = self.model.loss(ids_BT[:, :-1], ids_BT[:, 1:].contiguous(), None)
        loss: Tensor = nats / ids_BT[:, 1:].numel()
        return loss


def one_rank(source: Path, name: str, row: Row, device: str, folder: Path) -> Check:
    """Gradients by way of a process group of one: NCCL on a GPU, gloo without."""
    from torch import distributed

    on_gpu = torch.device(device).type == "cuda"
    lm = train(source, row, device, "fp32", 1, split="0.98,0.02,0")
    model = lm.model.to(device).train()
    ids_BT = torch.as_tensor(lm.held_out("valid").ids[1 : 1 + 4 * row.length].astype("int64")).view(4, -1).to(device)

    def gradients(loss: nn.Module) -> dict[str, Tensor]:
        model.zero_grad()
        loss(ids_BT).backward()
        return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}

    alone = gradients(_Loss(model))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=f"file://{folder / name}.store",
        world_size=1,
        rank=0,
    )
    try:
        averaged = gradients(nn.parallel.DistributedDataParallel(_Loss(model)))
        total = torch.ones(3, device=device)
        distributed.all_reduce(total)
        assert total.tolist() == [1, 1, 1]
    finally:
        gc.collect()  # what averages gradients must be gone before the connections are
        distributed.destroy_process_group()
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    backend = "nccl" if on_gpu else "gloo"
    return Check(
        f"one rank by {backend}, relative difference of a gradient", name, furthest(alone, averaged) / largest, 1e-5
    )


# -- decoding ---------------------------------------------------------------------------------------------------------


def decoded(model: Any, rows: int, tokens: int) -> float:
    """Tokens a second of so many texts, drawn together."""
    finish(decode(model, [], Sample(seed=1), n=rows, max_tokens=3))  # first-time costs
    began = time.perf_counter()
    branches = finish(decode(model, [], Sample(seed=0), n=rows, max_tokens=tokens))
    return sum(branch.length for branch in branches) / (time.perf_counter() - began)


def decoding(source: Path, row: Row, device: str, tokens: int) -> dict[str, float]:
    """Tokens a second on the processor and on the device, one text and 64."""
    model = train(source, row, device, "fp32", 20).model
    found = {}
    for where in dict.fromkeys(("cpu", device)):
        model.to(where)
        found |= {f"{where}, {rows} text{'s'[: rows - 1]}": decoded(model, rows, tokens) for rows in (1, 64)}
    model.to("cpu")
    return found


# -- all of it --------------------------------------------------------------------------------------------------------


def speeds(source: Path, row: Row, asked: argparse.Namespace, kinds: Sequence[str]) -> dict[str, Any]:
    """Tokens a second of both sides in each precision, a list over the rounds."""
    first = train(source, row, asked.device, "fp32", 1)
    ids_N = torch.as_tensor(first.held_out("train").ids.astype("int64"))
    size = first.tokenizer.vocab_size
    found: dict[str, Any] = {f"{side} {kind}": [] for kind in kinds for side in ("plain", "ours")}
    for _ in range(asked.rounds):
        for kind in kinds:
            found[f"plain {kind}"].append(plain_rate(ids_N, row, size, asked.device, kind, asked.seconds))
            found[f"ours {kind}"].append(our_rate(source, row, asked.device, kind, asked.seconds))
    found["parameters"] = [sum(p.numel() for p in row.plain(size).parameters()), first.model.parameter_count]
    return found


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it is written to gpu.json."""
    on_gpu = torch.device(asked.device).type == "cuda"
    kinds = ("fp32", "bf16") if not on_gpu or torch.cuda.is_bf16_supported() else ("fp32",)
    rows = {name: row for name, row in rows_of(asked.quick).items() if name in (asked.only or rows_of(True))}
    tokens = 10 if asked.quick else 200
    found: dict[str, Any] = {
        "card": card(asked.device),
        "began": time.strftime("%Y-%m-%d"),
        "speeds": {},
        "decoding": {},
    }
    checks: list[Check] = []
    before, cache = os.environ.get("LMLAB_CACHE"), tempfile.TemporaryDirectory()
    os.environ["LMLAB_CACHE"] = cache.name  # nothing of an earlier run is found there
    try:
        folder = Path(cache.name)
        source = folder / "text.txt"
        source.write_text(made_up(20_000 if asked.quick else 2_000_000), encoding="utf-8")
        for name, row in rows.items():
            print(name, file=sys.stderr, flush=True)
            found["speeds"][name] = speeds(source, row, asked, kinds)
            found["decoding"][name] = decoding(source, row, asked.device, tokens)
            small = replace(row, rows=4)  # the processor takes part
            checks += agreement(source, name, small, asked.device)
            if "bf16" in kinds:
                checks.append(half_precision(source, name, row, asked.device, 20 if asked.quick else 150))
            checks += resumption(source, name, small, asked.device, folder)
            checks.append(one_rank(source, name, small, asked.device, folder))
    finally:
        os.environ.pop("LMLAB_CACHE")
        if before is not None:
            os.environ["LMLAB_CACHE"] = before
        cache.cleanup()
    found["checks"] = [{**asdict(check), "holds": check.holds} for check in checks]
    found["protocol"] = PROTOCOL.format(
        card=found["card"], rounds=asked.rounds, seconds=asked.seconds, device=asked.device, tokens=tokens
    )
    return found


def card(device: str) -> str:
    """The card and the versions in words."""
    where = torch.device(device)
    if where.type != "cuda":
        return f"{platform.machine()} processor (no GPU), torch {torch.__version__}"
    memory = torch.cuda.get_device_properties(where).total_memory / 2**30
    return (
        f"{torch.cuda.get_device_name(where)}, {memory:.0f} GiB, torch {torch.__version__}, CUDA {torch.version.cuda}"
    )


def markdown(found: dict[str, Any]) -> str:
    """The tables."""
    lines = []
    for name, each in found["speeds"].items():
        cells = [name, " · ".join(short(count) for count in each["parameters"])]
        for kind in ("fp32", "bf16"):
            if f"ours {kind}" in each:
                theirs, ours = median(each[f"plain {kind}"]), median(each[f"ours {kind}"])
                cells += [short(theirs), short(ours), f"{ours / theirs:.2f}"]
            else:
                cells += ["-"] * 3
        lines.append(cells)
    head = ("family", "parameters, plain · ours")
    head += tuple(f"{cell} {kind}" for kind in ("fp32", "bf16") for cell in ("plain", "ours", "ratio"))
    training = table(head, lines)
    places = list(next(iter(found["decoding"].values())))
    drawn = table(("family", *places), [[name, *map(short, each.values())] for name, each in found["decoding"].items()])
    checks = table(
        ("check", "family", "figure", "at most", "holds"),
        [
            [
                each["what"],
                each["family"],
                f"{each['figure']:.2g}",
                f"{each['bound']:g}",
                "yes" if each["holds"] else "NO",
            ]
            for each in found["checks"]
        ],
    )
    return "\n\n".join(
        [
            f"# On a GPU\n\n{found['card']}; {found['began']}.",
            f"## Training, tokens/s\n\n{training}",
            f"## Decoding, tokens/s\n\n{drawn}",
            f"## Checks\n\n{checks}",
            found["protocol"] + "\n",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write both files, say where; 1 where a check does not hold."""
    asked = _parser().parse_args(arguments)
    if torch.device(asked.device).type == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: skipped, there is no GPU that torch can use")
        return 0
    found = measured(asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    page, figures = asked.out / "gpu.md", asked.out / "gpu.json"
    figures.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    page.write_text(markdown(found), encoding="utf-8")
    print(markdown(found))
    print(f"{figures}\n{page}")
    return 0 if all(check["holds"] for check in found["checks"]) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=RESULTS, metavar="DIR", help="where both files go")
    parser.add_argument("--device", default="cuda", help="cpu goes through it all without a GPU")
    parser.add_argument("--only", action="append", choices=list(rows_of(True)), metavar="FAMILY", help="repeatable")
    parser.add_argument("--rounds", type=int, default=2, metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of a side, a round")
    parser.add_argument("--quick", action="store_true", help="everything small, to see that it works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
