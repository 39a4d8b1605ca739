"""What happens during training, as values that listeners receive: progress bars, metrics, plots, notebooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Began:
    """Training begins or resumes: with so many threads an operation, row blocks a batch, and processes."""

    step: int
    total_steps: int
    parameters: int
    precision: str
    threads: int
    seconds: float
    row_blocks: int = 1
    processes: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Stepped:
    """Some steps were made.

    Attributes:
        step: steps made so far.
        total_steps: steps planned.
        train_nats: mean nats/token since the event before.
        lr: learning rate.
        epoch: passes over the training split so far.
        tokens: tokens learned from so far.
        tokens_per_second: since training began, or went on.
        seconds: spent so far; `remaining` the estimate for the rest.
        remaining: seconds to go.
    """

    step: int
    total_steps: int
    train_nats: float
    lr: float
    epoch: float
    tokens: int
    tokens_per_second: float
    seconds: float
    remaining: float


@dataclass(frozen=True)
class Evaluated:
    """The validation split was scored: nats/token, and whether it is the best so far."""

    step: int
    valid_nats: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class Sampled:
    """The model wrote something."""

    step: int
    text: str


@dataclass(frozen=True)
class Ended:
    """Training ended: `reason` is done, early (no better validation) or interrupted."""

    step: int
    reason: str
    best_valid_nats: float | None
    best_step: int
    tokens: int
    seconds: float


Event = Began | Stepped | Evaluated | Sampled | Ended
Listener = Callable[[Event], None]


_READ = {"stepped": ("step", "seconds", "train_nats"), "evaluated": ("step", "seconds", "valid_nats")}


def read_metrics(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of a `metrics.jsonl` and its event; lines that a kill cut short, or that are damaged, are left out."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            event = json.loads(line)
            if all(isinstance(event[name], int | float) for name in _READ.get(event["event"], ("step",))):
                yield line, event
        except (ValueError, KeyError, TypeError, RecursionError):
            continue


class MetricsFile:
    """Appends every event to a file, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        """Write one event."""
        line = json.dumps({"event": type(event).__name__.lower(), **asdict(event)}, ensure_ascii=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class TensorBoard:
    """Sends losses, rates and samples to TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from lmlab.errors import MissingExtraError

        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("TensorBoard", "tensorboard") from error
        self._writer = SummaryWriter(str(folder))

    def __call__(self, event: Event) -> None:
        """Write one event."""
        match event:
            case Stepped():
                self._writer.add_scalar("train/nats_per_token", event.train_nats, event.step)
                self._writer.add_scalar("train/lr", event.lr, event.step)
            case Evaluated():
                self._writer.add_scalar("valid/nats_per_token", event.valid_nats, event.step)
            case Sampled():
                self._writer.add_text("sample", event.text, event.step)
            case Ended():
                self._writer.close()
            case _:
                pass
