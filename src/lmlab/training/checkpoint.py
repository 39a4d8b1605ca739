"""Checkpoints: everything that a run needs to resume as if it had never stopped.

A checkpoint is a folder `checkpoints/step-000000120/` of safetensors (weights, optimiser, carried state) and a
`state.json` (counters, plan, and a checksum of all, verified before anything is used). It appears whole, by a rename;
the one before is removed only afterwards. A kill at any moment therefore leaves at least one good checkpoint, or none
yet and the run begins again from its seed.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmlab import disk, store
from lmlab.errors import ArtifactError, shown
from lmlab.integrity import read_json
from lmlab.models.neural.base import NeuralModel
from lmlab.training.ranks import Ranks

_FOLDER, _CHECKSUM = "checkpoints", "sha256"
_TENSORS, _COUNTERS, _WEIGHTS = "training.safetensors", "state.json", "model.safetensors"
_PRECISIONS = ("fp32", "bf16")
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
    evaluations: int = 0  # of the whole run

    @classmethod
    def of(cls, counters: Mapping[str, Any]) -> Self:
        """The progress that counters tell.

        Raises:
            ArtifactError: one is missing, unknown, of another type, or out of bounds.
        """
        kinds: dict[str, Any] = get_type_hints(cls) | {"seconds": int | float}
        for name in kinds.keys() | counters.keys():
            value = counters.get(name, ...)
            number = isinstance(value, int | float)
            least, most = (1, 1000) if name in ("threads", "row_blocks") else (0, 10**18)
            fits = isinstance(value, kinds.get(name, ())) and not isinstance(value, bool)
            fits = fits and (name != "precision" or value in _PRECISIONS)
            if not fits or (number and not least <= value <= most):
                problem = f"the checkpoint is damaged ({name} is {'missing' if value is ... else shown(value)})"
                raise ArtifactError(problem, "train again without --resume")
        return cls(**counters)


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
            checksum = _checksum(folder / _TENSORS, checkpoint.counters)
            disk.write_json(folder / _COUNTERS, {**checkpoint.counters, _CHECKSUM: checksum})
    for other in list(path.parent.iterdir()):
        if other != path:
            hidden = other.with_name(f".{other.name.lstrip('.')}")
            with contextlib.suppress(OSError):
                other.rename(hidden)  # a kill amid its removal leaves nothing that looks like a checkpoint
            shutil.rmtree(hidden, ignore_errors=True)


def newest(run: Path, say: Callable[[str], None] = lambda text: None) -> Checkpoint | None:
    """The last checkpoint of a run that is whole; None if it was stopped before its first.

    Args:
        run: the run's directory.
        say: is told of damaged ones that are passed over.

    Raises:
        ArtifactError: all are damaged.
    """
    damaged = None
    for path in sorted((run / _FOLDER).glob("step-*"), reverse=True):
        if damaged is not None:
            say(f"{damaged}; going on from {path.name}")
        try:
            return _read(path)
        except ArtifactError as error:
            damaged = error
    if damaged is not None:
        raise damaged
    return None


def _read(path: Path) -> Checkpoint:
    remedy = "train again without --resume"
    counters = read_json(path / _COUNTERS, remedy)
    try:
        checksum = _checksum(path / _TENSORS, {name: counters[name] for name in counters if name != _CHECKSUM})
        if checksum != counters.pop(_CHECKSUM, None):
            raise ArtifactError(f"{path} is damaged (its checksum is not that of its content)", remedy)
        tensors = load_file(path / _TENSORS)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged ({error})", remedy) from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ArtifactError(f"{path} is damaged ({name} holds NaN or infinite numbers)", remedy)
    return Checkpoint(tensors, counters)


def _checksum(tensors: Path, counters: Mapping[str, Any]) -> str:
    """Of the tensors' file and the counters together."""
    with tensors.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(counters, sort_keys=True).encode())
    return digest.hexdigest()


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
