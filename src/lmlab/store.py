"""Model directories: what lies in one, how it is written whole or not at all, how it is read back.

    manifest.json      format number, kind, what made it: configuration, data hash, versions; results; SHA-256 sums of
                       the files that make the model, and of itself
    config.json        the configuration alone, which is itself a recipe
    tokenizer.json     the tokenizer's vocabulary
    token_counts.npy   how often each of its tokens was counted, where that was kept
    model.safetensors  the weights of a trained model, or the memory-mapped arrays of a counted one
    metrics.jsonl      a line an event of training
    curve.png          the learning curve
    checkpoints/       what `--resume` needs (`lmlab.training.checkpoint`)

An n-gram model may lie in one file as well, `model.lm`: the same paths lead into it (`lmlab.packed`).

Every file and folder is written beside its place, synced, and renamed into it. Nothing is ever unpickled, and nothing
is read that is not as it was written, or no regular file.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lmlab import packed, registry, tokens
from lmlab.disk import as_json, atomic_folder, exists, scratch_folder, settle, write_file, write_json, writing
from lmlab.errors import ArtifactError, RunExistsError, UsageError, shown
from lmlab.integrity import Verified, plain, read_json, sha256_of, signed, unsigned
from lmlab.models.base import Registered
from lmlab.run_config import RunConfig
from lmlab.tokens.base import Tokenizer

FORMAT = 3
MANIFEST, CONFIG, METRICS, CURVE = "manifest.json", "config.json", "metrics.jsonl", "curve.png"
COMPARISON = CURVES, PAGE = "curves.png", "index.html"
"""What stands beside several runs that are compared."""
_UNSIGNED = (MANIFEST, METRICS, CURVE, "checkpoints")  # of which the manifest keeps no sums
_OWN_SUM = "sha256"
_TYPES: dict[str, type] = {
    "kind": str, "status": str, "config": dict, "data": dict, "made_by": dict, "results": dict, "files": dict,
}  # fmt: skip
_AGAIN = "train it again"
CLASSIFIER = "classifier"
"""The kind in the manifest of a classifier's directory; `lmlab.classify` reads its weights."""


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


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """Let a place be written only where nothing is, or what may be overwritten: a run, or a folder of runs alone.

    Raises:
        RunExistsError: something is there.
        UsageError: what is there was not made here.
    """
    if not exists(path):
        return
    if not overwrite:
        raise RunExistsError(path)
    if path.suffix == packed.SUFFIX and packed.is_packed(path):
        return
    within = sorted(path.iterdir()) if path.is_dir() else []
    runs = [path] if (path / MANIFEST).is_file() or not within else [entry for entry in within if entry.is_dir()]
    made = runs and all((run / MANIFEST).is_file() or run == path for run in runs)
    strange = [] if runs == [path] else [e.name for e in within if not e.is_dir() and e.name not in COMPARISON]
    if not made or strange or not path.is_dir():
        raise UsageError(f"{path} holds more than runs, so it is not overwritten", "remove it, or choose another -o")


def check_one_file(path: Path, kind: str) -> None:
    """Let a name that ends with `.lm` be that of a model which can lie in one file.

    Raises:
        UsageError: it cannot.
    """
    if path.suffix == packed.SUFFIX and not getattr(registry.stored(kind), "one_file", False):
        raise UsageError(f"{path} would be one file, but a model of kind {kind} is kept in a folder", "name a folder")


def is_model(path: Path) -> bool:
    """Whether a model directory is there, or a model in one file; either may be damaged.

    Raises:
        UsageError: nothing can have that name.
    """
    return exists(path) and (packed.is_packed(path) if path.is_file() else (path / MANIFEST).is_file())


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
    """Everything of a model directory but the weights; the manifest receives the vocabulary's size."""
    with writing(folder):
        tokenizer.save(folder)
        manifest["vocab_size"] = tokenizer.vocab_size
    write_results(folder, config, manifest)


def write_results(folder: Path, config: RunConfig, manifest: dict[str, Any]) -> None:
    """Write the configuration and the manifest; a kill in between leaves a manifest that allows either."""
    manifest["config"] = config.dump()
    content = as_json(manifest["config"])
    _allow(folder, {CONFIG: hashlib.sha256(content).hexdigest()})
    write_file(folder / CONFIG, content)
    sign(folder, manifest)


def sign(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest with the sums of all files that make the model, and its own."""
    manifest["files"] = {path.relative_to(folder).as_posix(): [sha256_of(path)] for path in sorted(_files(folder))}
    write_manifest(folder, manifest)


def _files(folder: Path) -> Iterator[Path]:
    """What lies in a model directory, but folders, hidden files, checkpoints and logs."""
    if not folder.is_dir():
        yield from (folder / name for name in packed.members(folder) if name not in _UNSIGNED)
        return
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _UNSIGNED:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest with its own sum; those of the other files are as it has them."""
    manifest.pop(_OWN_SUM, None)
    write_json(folder / MANIFEST, signed(manifest, _OWN_SUM))


def _allow(folder: Path, sums: Mapping[str, str]) -> None:
    """Let the manifest that is there, if any, know files that are about to take the places of others."""
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        known = manifest["files"]
        known |= {name: [*known.get(name, [])[-1:], sum_] for name, sum_ in sums.items()}
        write_manifest(folder, manifest)


def replace_files(folder: Path, made: Path) -> None:
    """Move all files of a folder into a model directory; its manifest knows their sums before they take their places.

    A kill in between leaves some of the old files and some of the new ones, which the manifest both allows. A folder
    without a manifest, of training without a run, has none to tell.
    """
    new = sorted(made.iterdir())
    for file in new:
        settle(file)
    _allow(folder, {file.name: sha256_of(file) for file in new})
    for file in new:
        file.replace(folder / file.name)


def save(
    path: Path,
    model: Registered,
    tokenizer: Tokenizer,
    config: RunConfig,
    manifest: dict[str, Any],
    curve: Path | None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a whole model directory, or where the name ends with `.lm` one file, atomically.

    Raises:
        UsageError: one file is named for a model of a kind that is kept in a folder alone.
    """
    check_free(path, overwrite=overwrite)
    if path.suffix == packed.SUFFIX:
        check_one_file(path, config.model.kind)
        with scratch_folder(path) as beside:
            save(beside / "model", model, tokenizer, config, manifest, curve)
            packed.pack(beside / "model", path)
        return
    with atomic_folder(path, overwrite=overwrite) as folder:
        model.save(folder)
        write_description(folder, tokenizer, config, manifest)
        for extra in (METRICS, CURVE):
            if curve is not None and (curve / extra).is_file():
                import shutil

                shutil.copyfile(curve / extra, folder / extra)


class Described(NamedTuple):
    """Everything of a model directory but the weights, whose files are as they were written."""

    tokenizer: Tokenizer
    config: RunConfig
    manifest: dict[str, Any]
    verified: Verified


def read_description(path: Path, classifier: bool = False) -> Described:
    """Read all but the weights of a language model's directory, or of a classifier's.

    Raises:
        ArtifactError: it is none, of another format, or damaged.
    """
    manifest = read_manifest(path)
    if (manifest["kind"] == CLASSIFIER) != classifier:
        what, verb = ("no classifier", "eval") if classifier else ("a classifier, no language model", "classify eval")
        raise ArtifactError(f"{path} is {what}", f"`lmlab {verb}` reads it")
    for file in _files(path):
        plain(file)
    size = manifest.get("vocab_size")
    verified = Verified(path, manifest["files"], _AGAIN, repr(size))
    config = read_config(path)
    known = size if verified.remembered else None
    tokenizer = tokens.load_tokenizer(path, config.tokenizer.kind, config.tokenizer.settings.dump(), known)
    if size != tokenizer.vocab_size:
        raise ArtifactError(
            f"{path} is inconsistent: {tokenizer.vocab_size} tokens, {shown(size)} in {MANIFEST}",
            _AGAIN,
        )
    return Described(tokenizer, config, manifest, verified)


class Stored(NamedTuple):
    """A model directory read back; `models.base.whole` of its model can do all that its kind can."""

    model: Registered
    tokenizer: Tokenizer
    config: RunConfig
    manifest: dict[str, Any]


def load(path: Path) -> Stored:
    """Read a model directory.

    Raises:
        ArtifactError: it is none, of another format, or damaged.
    """
    tokenizer, config, manifest, verified = read_description(path)
    kind = registry.stored(config.model.kind)
    read = getattr(kind, "load_verified", kind.load) if verified.remembered else kind.load
    model = read(path, config.model.settings, tokenizer.vocab_size)
    if not verified.remembered:
        model.check()
        verified.remember()
    return Stored(model, tokenizer, config, manifest)


def read_config(path: Path) -> RunConfig:
    """The configuration of a model directory.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    dumped = read_json(path / CONFIG, _AGAIN)
    try:
        return RunConfig.load(dumped)
    except UsageError as error:
        raise ArtifactError(f"{path / CONFIG} is damaged ({error})", _AGAIN) from error


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a model directory, its format checked.

    Raises:
        ArtifactError: it is missing, damaged, or of another format.
    """
    if not is_model(path):
        lacking = f"no {MANIFEST}" if path.is_dir() else "a file, but no model" if path.is_file() else "no such folder"
        raise ArtifactError(f"{path} is no model directory ({lacking})", "see `lmlab train --help`")
    manifest = read_json(path / MANIFEST, _AGAIN)
    written = manifest.get("format")
    if written != FORMAT:
        older = isinstance(written, int) and 1 <= written < FORMAT
        raise ArtifactError(
            f"{path} has format {shown(written)}, but this version reads {FORMAT}",
            f"make it again: lmlab train --recipe {path} -o NEW" if older else "install the one that wrote it",
        )
    manifest = unsigned(path / MANIFEST, manifest, _OWN_SUM, _AGAIN)
    wrong = [name for name, wanted in _TYPES.items() if not isinstance(manifest.get(name), wanted)]
    sound = not wrong and all(_is_entry(*entry) for entry in manifest["files"].items())
    if not sound:
        raise ArtifactError(f"{path / MANIFEST} is damaged ({', '.join(wrong) or 'files'})", _AGAIN)
    return manifest


def _is_entry(name: str, sums: object) -> bool:
    """Whether it names a file of the folder itself, and the sums it may have."""
    within = not Path(name).is_absolute() and ".." not in Path(name).parts
    return within and isinstance(sums, list) and all(isinstance(sum_, str) for sum_ in sums)
