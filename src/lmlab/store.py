"""Model directories: what lies in one, how it is written whole or not at all, how it is read back.

    manifest.json      format number, kind, what made it: configuration, data hash, versions; results
    config.json        the configuration alone, which is itself a recipe
    tokenizer.json     the tokenizer's vocabulary
    model.safetensors  the weights of a trained model, or the memory-mapped arrays of a counted one
    metrics.jsonl      a line an event of training
    curve.png          the learning curve
    checkpoints/       what `--resume` needs (`lmlab.training.checkpoint`)

Every file and folder is written beside its place, synced, and renamed into it. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lmlab import registry, tokens
from lmlab.disk import atomic_folder, write_json, writing
from lmlab.errors import ArtifactError, UsageError
from lmlab.models.base import Registered
from lmlab.run_config import RunConfig
from lmlab.tokens.base import FILE, Tokenizer

FORMAT = 2
MANIFEST, CONFIG, METRICS, CURVE = "manifest.json", "config.json", "metrics.jsonl", "curve.png"
VOCABULARY = "tokenizer_sha256"  # in the manifest


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: missing, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path.parent} is no model directory (no {path.name})", "see `lmlab info`") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({error})", "train it again") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} is damaged (not an object)", "train it again")
    return content


LIBRARIES = ("lmlab", "numpy", "numba", "torch", "tokenizers")


def versions() -> dict[str, str]:
    """What made this: the versions of what the numbers depend on, as far as it is loaded, and the machine."""
    loaded = {name: str(sys.modules[name].__version__) for name in LIBRARIES if name in sys.modules}
    return {
        "python": platform.python_version(),
        **loaded,
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
    }


def new_manifest(config: RunConfig, data: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a run that begins."""
    return {
        "format": FORMAT,
        "kind": config.model.kind,
        "status": "running",
        "config": config.dump(),
        "data": dict(data),
        "made_by": versions(),
        "results": {},
    }


def write_description(folder: Path, tokenizer: Tokenizer, config: RunConfig, manifest: dict[str, Any]) -> None:
    """Everything of a model directory but the weights; the manifest receives the vocabulary's size and hash."""
    with writing(folder):
        tokenizer.save(folder)
        manifest |= {"vocab_size": tokenizer.vocab_size, VOCABULARY: _vocabulary_hash(folder)}
    write_results(folder, config, manifest)


def write_results(folder: Path, config: RunConfig, manifest: dict[str, Any]) -> None:
    """Write the configuration and the manifest, which holds it too."""
    manifest["config"] = config.dump()
    write_json(folder / CONFIG, manifest["config"])
    write_json(folder / MANIFEST, manifest)


def save(
    path: Path,
    model: Registered,
    tokenizer: Tokenizer,
    config: RunConfig,
    manifest: dict[str, Any],
    curve: Path | None,
) -> None:
    """Write a whole model directory, atomically."""
    with atomic_folder(path) as folder:
        write_description(folder, tokenizer, config, manifest)
        model.save(folder)
        for extra in (METRICS, CURVE):
            if curve is not None and (curve / extra).is_file():
                import shutil

                shutil.copyfile(curve / extra, folder / extra)


class Stored(NamedTuple):
    """A model directory read back."""

    model: Registered
    tokenizer: Tokenizer
    config: RunConfig
    manifest: dict[str, Any]


def load(path: Path) -> Stored:
    """Read a model directory.

    Raises:
        ArtifactError: it is none, of another format, or damaged.
    """
    manifest, config = read_manifest(path), read_config(path)
    tokenizer = tokens.load_tokenizer(path, config.tokenizer.kind, config.tokenizer.settings.dump())
    if manifest.get(VOCABULARY, now := _vocabulary_hash(path)) != now:
        raise ArtifactError(f"{path / FILE} is damaged (not what the manifest knows)", "train it again")
    if manifest.get("vocab_size") != tokenizer.vocab_size:
        raise ArtifactError(
            f"{path} is inconsistent: {tokenizer.vocab_size} tokens, {manifest.get('vocab_size')} in {MANIFEST}",
            "train it again",
        )
    model_class = registry.resolve("model", config.model.kind)
    return Stored(model_class.load(path, config.model.settings, tokenizer.vocab_size), tokenizer, config, manifest)


def _vocabulary_hash(folder: Path) -> str:
    with (folder / FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_config(path: Path) -> RunConfig:
    """The configuration of a model directory.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    dumped = read_json(path / CONFIG)
    try:
        return RunConfig.load(dumped)
    except UsageError as error:
        raise ArtifactError(f"{path / CONFIG} is damaged ({error})", "train it again") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a model directory, its format checked.

    Raises:
        ArtifactError: it is missing, damaged, or of another format.
    """
    if not path.is_dir():
        raise ArtifactError(f"{path} is no model directory (no such folder)", "see `lmlab train --help`")
    manifest = read_json(path / MANIFEST)
    if manifest.get("format") == 1:
        raise ArtifactError(
            f"{path} has format 1, but this version reads {FORMAT}",
            f"make it again: lmlab train --recipe {path} -o NEW",
        )
    if manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} has format {manifest.get('format')}, but this version reads {FORMAT}",
            "install the one that wrote it",
        )
    return manifest
