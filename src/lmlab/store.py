"""Model directories: what lies in one, how it is written whole or not at all, how it is read back.

    manifest.json      format number, kind, what made it: configuration, seed, data hash, versions; results
    config.json        the configuration alone: data, tokenizer, model, train, seed
    tokenizer.json     the tokenizer's vocabulary
    model.safetensors  the weights of a trained model, or the memory-mapped arrays of a counted one
    metrics.jsonl      a line an event of training
    curve.png          the learning curve
    checkpoints/       what `--resume` needs; see training/checkpoint.py

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
from lmlab.errors import ArtifactError
from lmlab.models.base import Registered
from lmlab.tokens.base import FILE, Tokenizer

FORMAT = 1
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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


def new_manifest(config: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a run that begins."""
    return {
        "format": FORMAT,
        "kind": config["model"]["kind"],
        "status": "running",
        "config": dict(config),
        "seed": config["seed"],
        "data": dict(data),
        "made_by": versions(),
        "results": {},
    }


def write_description(folder: Path, tokenizer: Tokenizer, config: Mapping[str, Any], manifest: dict[str, Any]) -> None:
    """Everything of a model directory but the weights; the manifest receives the vocabulary's hash."""
    with writing(folder):
        tokenizer.save(folder)
        manifest[VOCABULARY] = _vocabulary_hash(folder)
    write_json(folder / CONFIG, config)
    write_json(folder / MANIFEST, manifest)


def save(
    path: Path,
    model: Registered,
    tokenizer: Tokenizer,
    config: Mapping[str, Any],
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
    config: dict[str, Any]
    manifest: dict[str, Any]


def load(path: Path) -> Stored:
    """Read a model directory.

    Raises:
        ArtifactError: it is none, of another format, or damaged.
    """
    manifest = read_manifest(path)
    config = read_json(path / CONFIG)
    try:
        tokenizer_kind, model_kind = config["tokenizer"]["kind"], config["model"]["kind"]
        vocab_size = int(config["vocab_size"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(f"{path / CONFIG} is damaged (no {error})", "train it again") from error
    tokenizer = tokens.load_tokenizer(path, tokenizer_kind, _without_kind(config["tokenizer"]))
    if manifest.get(VOCABULARY, now := _vocabulary_hash(path)) != now:
        raise ArtifactError(f"{path / FILE} is damaged (not what the manifest knows)", "train it again")
    if tokenizer.vocab_size != vocab_size:
        raise ArtifactError(
            f"{path} is inconsistent: {tokenizer.vocab_size} tokens in tokenizer.json, {vocab_size} in config.json",
            "train it again",
        )
    model_class = registry.resolve("model", model_kind)
    settings = model_class.Settings.make(_without_kind(config["model"]), "model")
    return Stored(model_class.load(path, settings, vocab_size), tokenizer, config, manifest)


def _vocabulary_hash(folder: Path) -> str:
    with (folder / FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a model directory, its format checked."""
    if not path.is_dir():
        raise ArtifactError(f"{path} is no model directory (no such folder)", "see `lmlab train --help`")
    manifest = read_json(path / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} has format {manifest.get('format')}, but this version reads {FORMAT}",
            "install the one that wrote it",
        )
    return manifest


def _without_kind(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "kind"}
