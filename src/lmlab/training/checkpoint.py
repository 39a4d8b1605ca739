"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint is a folder `checkpoints/step-000000120/` of safetensors (weights, optimiser, carried state)
and a `state.json` (counters and plan). It appears whole, by a rename; the one before is removed only afterwards. A kill
at any moment therefore leaves at least one good checkpoint, or none yet and the run begins again from its seed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmlab import disk, store
from lmlab.errors import ArtifactError
from lmlab.models.neural.base import NeuralModel

_FOLDER = "checkpoints"
_TENSORS, _COUNTERS = "training.safetensors", "state.json"


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
    for other in path.parent.iterdir():
        if other != path:
            shutil.rmtree(other, ignore_errors=True)


def newest(run: Path) -> Checkpoint | None:
    """The last checkpoint of a run; None if it was stopped before its first.

    Raises:
        ArtifactError: it is damaged.
    """
    paths = sorted(path for path in (run / _FOLDER).glob("step-*"))
    if not paths:
        return None
    counters = store.read_json(paths[-1] / _COUNTERS)
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
        for file in Path(folder).iterdir():
            disk.settle(file)
            os.replace(file, run / file.name)
