"""Model directories, token stores and checkpoints, damaged and signed again, so that every sum holds."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import tokenize
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lmlab
from lmlab import store
from lmlab.cli import main
from lmlab.corpora import DataSettings, open_corpus
from lmlab.facade import learn
from lmlab.facade.estimate import estimate, ngram_of, words_of
from lmlab.integrity import json_sum, sha256_of
from lmlab.memory import save_array
from lmlab.models.ngram import Ngram, arpa, prune
from lmlab.progress import Silent
from lmlab.tokens import build_tokenizer
from lmlab.tokens.base import COUNTS
from lmlab.tokens.batches import Columns, Lines, Windows
from lmlab.tokens.id_store import IDS, META, OFFSETS, TokenStore
from lmlab.training import checkpoint
from tests.soak.campaign import WrongError, drawn
from tests.soak.kills import training
from tests.soak.odd import Draw, as_json, damaged, one_changed
from tests.texts import some_text


class Bases:
    """Sound models, files and stores, to be copied and damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "text").write_text(some_text(60))
        quiet = Silent()
        self.counted, self.trained = [], []
        ways: dict[str, dict[str, Any]] = {"fast": {}, "compact": {"layout": "compact"}, "pruned": {"prune": [0, 0, 1]}}
        for name, settings in ways.items():
            estimate(folder / "text", out=folder / name, order=3, reporter=quiet, **settings)
            self.counted.append(folder / name)
        here = os.getcwd()
        os.chdir(folder)
        os.environ["LMLAB_CACHE"] = str(folder / "cache")
        for kind in ("lstm", "cnn", "transformer"):
            words = [kind if word == "out" else word for word in training(kind, steps=4)]
            with contextlib.redirect_stdout(io.StringIO()):
                if main(words):
                    raise RuntimeError(f"{words} fails")
            self.trained.append(folder / kind)
        os.chdir(here)
        self.arpa = []
        for name in ("fast", "pruned"):
            lm = lmlab.load(folder / name)
            arpa.write(folder / "made.arpa", ngram_of(lm).fast_trie, words_of(lm))
            self.arpa.append((folder / "made.arpa").read_bytes())
        corpus = open_corpus(str(folder / "text"), DataSettings(unit="line", split="none"))
        tokenizer = build_tokenizer("word", {}, corpus.documents("train"))
        TokenStore.build(folder / "tokens", tokenizer, corpus.documents("train"))
        for path in (*self.counted, *self.trained):
            asked(lmlab.load(path), drawn(0, path.name), folder)

    def copied(self, draw: Draw, here: Path, names: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
        """A copy of one of them, and its manifest."""
        run = here / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(draw.choice(names), run)
        return run, json.loads((run / store.MANIFEST).read_text())


def _used(run: Path, draw: Draw) -> None:
    asked(lmlab.load(run), draw, run.parent)


def signed_json(draw: Draw, here: Path, base: Bases) -> None:
    """One value of the manifest, the configuration or the tokenizer is another; the sums hold."""
    run, manifest = base.copied(draw, here, [*base.counted, *base.trained])
    name = draw.choice([path.name for path in run.iterdir() if path.suffix == ".json"])
    if name == store.MANIFEST:
        manifest = one_changed(manifest, draw)
        manifest.pop("sha256", None)
        (run / name).write_text(json.dumps(manifest | {"sha256": json_sum(manifest)}))
    else:
        content = one_changed(json.loads((run / name).read_text()), draw)
        if name == "ngram.json" and isinstance(content.get("model"), dict):
            content["crc32"] = zlib.crc32(json.dumps(content["model"]).encode())
        said = as_json(draw, content)
        (run / name).write_bytes(damaged(draw, said.encode()) if draw.random() < 0.1 else said.encode())
        store.sign(run, manifest)
    _used(run, draw)


_NUMBERS = (0, 1, 2, 31, 63, 64, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)
_LOGS = (float("nan"), float("inf"), float("-inf"), 1e-3, 1e30, -3e38, -0.0)


def forged(draw: Draw, array: np.ndarray) -> np.ndarray:
    """An array of the same or another shape, in which numbers are others."""
    array = np.array(array)
    change = draw.choice((*["some"] * 12, "copy", "type", "longer", "shorter", "shape"))
    if change == "longer" or not array.size:
        return np.append(array, np.zeros(1, array.dtype)).astype(array.dtype)
    flat = array.reshape(-1)
    if change == "some":
        for _ in range(draw.choice((1, 1, 3))):
            whole = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 0
            value = draw.choice(_NUMBERS) & whole if whole else draw.choice(_LOGS)
            near = flat[draw.randrange(flat.size)] if draw.random() < 0.3 else value
            flat[draw.randrange(flat.size)] = near
        return array
    if change == "copy":
        flat[draw.randrange(flat.size) :] = flat[0]
        return array
    if change == "type":
        return array.astype(draw.choice(("<u8", "<u4", "<f4", ">u8", "<c8", "S3", "<f8")))
    return flat[: flat.size // 2].copy() if change == "shorter" else array.reshape((1, *array.shape))


def forged_arrays(draw: Draw, here: Path, base: Bases) -> None:
    """An array of an n-gram model is another; all sums hold."""
    run, manifest = base.copied(draw, here, base.counted)
    for _ in range(draw.choice((1, 1, 2))):
        path = draw.choice(sorted(run.glob("*.npy")))
        if draw.random() < 0.2:
            path.write_bytes(damaged(draw, path.read_bytes()))
            sums = None
        else:
            try:
                sums = _save(path, forged(draw, np.load(path)))
            except (ValueError, EOFError, OSError, tokenize.TokenError):  # the second damage of a file
                continue
        _sign_arrays(run, path, sums)
    store.sign(run, manifest)
    _used(run, draw)


def _save(path: Path, array: np.ndarray) -> list[int] | None:
    if array.ndim == 1:
        return save_array(path, array)
    np.save(path, array)
    return None


def _sign_arrays(run: Path, path: Path, sums: list[int] | None) -> None:
    """Let the model's own description agree with an array of it."""
    if path.name == COUNTS:
        return
    if (run / "compact.json").exists():
        about = json.loads((run / "compact.json").read_text())
        about["crc32"][int(path.stem.rpartition("_")[2]) - 1] = zlib.crc32(path.read_bytes())
        (run / "compact.json").write_text(json.dumps(about))
        return
    content = json.loads((run / "ngram.json").read_text())
    about = content["model"]
    if sums is None:  # as `save_array` takes them: of the header, and of every 2^16 numbers
        data = path.read_bytes()
        head = 10 + struct.unpack("<H", data[8:10].ljust(2, b"\0"))[0]
        sums = [
            zlib.crc32(data[:head]),
            *(zlib.crc32(data[at : at + (8 << 16)]) for at in range(head, len(data), 8 << 16)),
        ]
    about["crc32"][path.name] = sums
    (run / "ngram.json").write_text(json.dumps({"model": about, "crc32": zlib.crc32(json.dumps(about).encode())}))


def forged_weights(draw: Draw, here: Path, base: Bases) -> None:
    """The weights of a trained model, or the header that describes them, are others; the sums hold."""
    run, manifest = base.copied(draw, here, base.trained)
    path = run / "model.safetensors"
    path.write_bytes(forged_tensors(draw, path.read_bytes()))
    store.sign(run, manifest)
    _used(run, draw)


def forged_tensors(draw: Draw, data: bytes) -> bytes:
    """A file of tensors whose header or numbers are others."""
    size = int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8 : 8 + size]), data[8 + size :]
    change = draw.randrange(4)
    if change == 0:
        said = as_json(draw, one_changed(header, draw)).encode()
        return len(said).to_bytes(8, "little") + said + numbers
    if change == 1:
        at = 4 * draw.randrange(max(1, len(numbers) // 4))
        odd = struct.pack("<f", draw.choice((*_LOGS, 1e38, 0.0)))
        return data[: 8 + size] + numbers[:at] + odd + numbers[at + 4 :]
    if change == 2:
        return draw.choice((0, 1, 2**63, 2**64 - 1, len(data))).to_bytes(8, "little") + data[8:]
    return damaged(draw, data)


def token_store(draw: Draw, here: Path, base: Bases) -> None:
    """Encoded text whose totals, ids or offsets are others, all sums right; then cut into batches and counted."""
    folder = here / "tokens"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base.folder / "tokens", folder)
    totals = json.loads((folder / META).read_text())
    totals.pop("meta_sha256")
    change = draw.randrange(3)
    if change == 0:
        totals = one_changed(totals, draw)
    elif change == 1:
        ids = np.fromfile(folder / IDS, "<u2")
        forged(draw, ids).tofile(folder / IDS)
    elif draw.random() < 0.2:
        (folder / OFFSETS).write_bytes(damaged(draw, (folder / OFFSETS).read_bytes()))
    else:
        np.save(folder / OFFSETS, forged(draw, np.load(folder / OFFSETS)))
    if change:
        totals["files"] = {name: [sha256_of(folder / name)] for name in (IDS, OFFSETS)}
    (folder / META).write_text(json.dumps(totals | {"meta_sha256": json_sum(totals)}))
    tokens = TokenStore.open(folder)
    size = int(tokens.vocab_size)
    for batches in (Columns(tokens, 4, 8, 0), Lines(tokens, 4, 64, 0), Windows(tokens, 4, 8, 0)):
        for batch, _ in zip(batches.epoch(0), range(50), strict=False):
            if int(batch.ids_BT.max()) >= size or int(batch.ids_BT.min()) < 0:
                raise WrongError("ids beyond the vocabulary")
    if size <= 1 << 20:
        Ngram.estimate(Ngram.Settings(2), size, tokens.ids)


def forged_checkpoint(draw: Draw, here: Path, base: Bases) -> None:
    """A checkpoint whose counters or tensors are others, its sum right; the run goes on from there."""
    run, manifest = base.copied(draw, here, base.trained)
    store.sign(run, manifest | {"status": "interrupted"})
    (folder,) = (run / "checkpoints").iterdir()
    tensors, counters = folder / "training.safetensors", folder / "state.json"
    content = json.loads(counters.read_text())
    content.pop(checkpoint._CHECKSUM)
    if draw.random() < 0.5:
        content = one_changed(content, draw)
    else:
        tensors.write_bytes(forged_tensors(draw, tensors.read_bytes()))
    content[checkpoint._CHECKSUM] = checkpoint._checksum(tensors, content)
    counters.write_text(json.dumps(content))
    learn.resume(run, Silent())


def asked(lm: Any, draw: Draw, here: Path) -> None:
    """What a model is for: scores and text, and of an n-gram its file."""
    lm.score("the end of 漢字 </s> naïve")
    list(lm.generate("", lmlab.Sample(seed=0), n=2, max_tokens=4))
    if isinstance(lm.model, Ngram) and draw.random() < 0.3:
        trie = ngram_of(lm).fast_trie
        arpa.write(here / "asked.arpa", trie, words_of(lm))
        prune.by_entropy(trie, threshold=1e-3, ngrams=None)
