"""Checkpoints: everything that a run needs to resume as if it had never stopped.

A checkpoint is a folder `checkpoints/step-000000120/` of safetensors (weights, optimiser, carried state)
and a `state.json` (counters and plan). It appears whole, by a rename; the one before is removed only afterwards. A kill
at any moment therefore leaves at least one good checkpoint, or none yet and the run begins again from its seed.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmlab import disk, store
from lmlab.errors import ArtifactError
from lmlab.integrity import read_json
from lmlab.models.neural.base import NeuralModel
from lmlab.training.ranks import Ranks

_FOLDER = "checkpoints"
_TENSORS, _COUNTERS, _WEIGHTS = "training.safetensors", "state.json", "model.safetensors"
_SAVE_SECONDS = 60.0  # between checkpoints, at most, besides one an evaluation


@dataclass
class Progress:
    """Where a run stands: the counters of its checkpoint, and what was decided before its first step."""

    step: int = 0  # steps made, from so many tokens, in so many seconds
    tokens: int = 0
    seconds: float = 0.0
    epoch: int = 0  # place of the next batch in the data
    index: int = 0
    best_nats: float | None = None  # nats/token of the best evaluation
    best_step: int = 0
    worse: int = 0  # evaluations since the best
    plan: str = ""
    precision: str = ""
    threads: int = 0  # inside each operation
    row_blocks: int = 0  # row blocks a batch
    validation_tokens: int = 0  # scored an evaluation


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a run: named tensors and JSON-able counters."""

    tensors: Mapping[str, Tensor]
    counters: Mapping[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix/`, by the rest of their names."""
        start = len(prefix) + 1
        return {name[start:]: tensor for name, tensor in self.tensors.items() if name.startswith(f"{prefix}/")}


def write(run: Path, checkpoint: Checkpoint) -> None:
    """Add a checkpoint to a run, then drop the older ones."""
    path = run / _FOLDER / f"step-{checkpoint.counters['step']:09d}"
    if not path.exists():
        with disk.atomic_folder(path) as folder:
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in checkpoint.tensors.items()}, folder / _TENSORS
            )
            disk.write_json(folder / _COUNTERS, checkpoint.counters)
    for other in list(path.parent.iterdir()):
        if other != path:
            hidden = other.with_name(f".{other.name.lstrip('.')}")
            with contextlib.suppress(OSError):
                other.rename(hidden)  # a kill amid its removal leaves nothing that looks like a checkpoint
            shutil.rmtree(hidden, ignore_errors=True)


def newest(run: Path) -> Checkpoint | None:
    """The last checkpoint of a run; None if it was stopped before its first.

    Raises:
        ArtifactError: it is damaged.
    """
    paths = sorted(path for path in (run / _FOLDER).glob("step-*"))
    if not paths:
        return None
    counters = read_json(paths[-1] / _COUNTERS, "train again without --resume")
    try:
        return Checkpoint(load_file(paths[-1] / _TENSORS), counters)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{paths[-1]} is damaged ({error})", "train again without --resume") from error


def keep_weights(model: NeuralModel, run: Path) -> None:
    """Make the model's present weights the run's, atomically."""
    for left_by_a_kill in run.glob(".weights-*"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    with disk.writing(run), tempfile.TemporaryDirectory(prefix=".weights-", dir=run) as folder:
        model.save(Path(folder))
        store.replace_files(run, Path(folder))


class Keeper:
    """Where a run leaves its checkpoints and its best weights: in its directory, or without one the weights in memory.

    Args:
        model: whose weights they are.
        run: the run's directory; None keeps no checkpoints.
        ranks: the processes that train together; those but the first have no directory.
        seconds: tells the seconds spent so far.
    """

    def __init__(self, model: NeuralModel, run: Path | None, ranks: Ranks, seconds: Callable[[], float]) -> None:
        self._model, self._run, self._ranks, self._seconds = model, run, ranks, seconds
        self._saved = seconds()
        self._best: dict[str, Tensor] | None = None

    @property
    def due(self) -> bool:
        """Whether the last checkpoint was long ago."""
        return self._seconds() - self._saved > _SAVE_SECONDS

    def save(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Leave a checkpoint."""
        self._saved = progress.seconds = self._seconds()
        if self._run is not None:
            write(self._run, Checkpoint(tensors, vars(progress)))

    def keep_best(self) -> None:
        """Make the model's present weights those that `restore_best` brings back."""
        if self._run is not None:
            keep_weights(self._model, self._run)
        elif self._ranks.first:
            self._best = copy.deepcopy(self._model.state_dict())

    def restore_best(self) -> None:
        """Put the weights kept last into the model of every rank; where none were kept, those of the first stay."""
        if self._run is not None and (self._run / _WEIGHTS).is_file():
            best = type(self._model).load(self._run, self._model.settings, self._model.vocab_size)
            self._model.load_state_dict(best.state_dict())
        elif self._best is not None:
            self._model.load_state_dict(self._best)
        self._ranks.spread(self._model.state_dict().values())
