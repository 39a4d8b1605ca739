import json
import os
import shutil

import pytest

from lmlab import store
from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError
from lmlab.models.neural.cnn import CNN
from lmlab.run_config import RunConfig
from lmlab.tokens import build_tokenizer

# -- a model directory ------------------------------------------------------------------------------------------------

TOKENIZER = build_tokenizer("char", {}, [Document("to be or not to be")])
CONFIG = RunConfig.build(
    {"source": "text", "seed": 3, "model.kind": "cnn", "model.channels": 4, "model.embedding": 3, "model.layers": 1}
)


@pytest.fixture
def saved(tmp_path):
    settings = CNN.Settings(channels=4, embedding=3, layers=1)
    path = tmp_path / "run"
    manifest = store.new_manifest(CONFIG, {"sha256": "0"})
    store.save(path, CNN(settings, TOKENIZER.vocab_size), TOKENIZER, CONFIG, manifest, None)
    return path


def test_a_model_directory_comes_back(saved):
    found = store.load(saved)
    assert (found.config, found.manifest["kind"], found.manifest["config"]["seed"]) == (CONFIG, "cnn", 3)
    assert found.manifest["made_by"]["numpy"]
    assert found.tokenizer.encode("to").ids.tolist() == TOKENIZER.encode("to").ids.tolist()
    assert found.model.settings.channels == 4
    assert sorted(path.name for path in saved.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_the_curve_of_the_run_goes_along(saved, tmp_path):
    found = store.load(saved)
    (tmp_path / "metrics.jsonl").write_text("{}")
    store.save(tmp_path / "early", found.model, found.tokenizer, found.config, found.manifest, tmp_path)
    assert (tmp_path / "early" / "metrics.jsonl").read_text() == "{}"
    assert not (tmp_path / "early" / "curve.png").exists()
    (tmp_path / "curve.png").write_bytes(b"a picture")
    store.save(tmp_path / "late", found.model, found.tokenizer, found.config, found.manifest, tmp_path)
    assert (tmp_path / "late" / "curve.png").read_bytes() == b"a picture"


def test_a_directory_may_be_read_by_others(saved):
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in saved.iterdir())


def half(path):
    os.truncate(path, path.stat().st_size // 2)


def changed(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAMAGES = {
    "no directory": (lambda run: shutil.rmtree(run), "is no model directory (no such folder)"),
    "a file": (lambda run: (shutil.rmtree(run), run.write_text("")), "is no model directory (no such folder)"),
    "an empty directory": (
        lambda run: [path.unlink() for path in run.iterdir()],
        "is no model directory (no manifest.json)",
    ),
    "another letter in the vocabulary": (
        lambda run: (run / "tokenizer.json").write_text((run / "tokenizer.json").read_text().replace('"b"', '"z"')),
        "tokenizer.json is damaged (not what the manifest knows)",
    ),
    "no config": (lambda run: (run / "config.json").unlink(), "is no model directory (no config.json)"),
    "another format": (
        lambda run: changed(run / "manifest.json", format=99),
        "has format 99, but this version reads 2",
    ),
    "no format": (lambda run: (run / "manifest.json").write_text("{}"), "has format None, but this version reads 2"),
    "a list": (lambda run: (run / "manifest.json").write_text("[]"), "manifest.json is damaged (not an object)"),
    "half a manifest": (lambda run: half(run / "manifest.json"), "manifest.json is damaged"),
    "half a config": (lambda run: half(run / "config.json"), "config.json is damaged"),
    "an empty config": (lambda run: (run / "config.json").write_text("{}"), "config.json is damaged"),
    "no text": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
    "a model that is a word": (lambda run: changed(run / "config.json", model="cnn"), "config.json is damaged"),
    "a kind that is a number": (lambda run: changed(run / "config.json", model={"kind": 3}), "config.json is damaged"),
    "a setting out of bounds": (lambda run: changed(run / "config.json", train={"lr": -1}), "config.json is damaged"),
    "named that is no list": (lambda run: changed(run / "config.json", named={"a": 1}), "config.json is damaged"),
    "a vocabulary of text": (lambda run: changed(run / "manifest.json", vocab_size="many"), "is inconsistent"),
    "another vocabulary": (lambda run: changed(run / "manifest.json", vocab_size=999), "is inconsistent"),
    "the first format": (
        lambda run: changed(run / "manifest.json", format=1),
        "has format 1, but this version reads 2: make it again: lmlab train --recipe",
    ),
    "no tokenizer": (lambda run: (run / "tokenizer.json").unlink(), "tokenizer.json"),
    "half a tokenizer": (lambda run: half(run / "tokenizer.json"), "tokenizer.json"),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "half the weights": (lambda run: half(run / "model.safetensors"), "model.safetensors cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_told_in_one_line(saved, name):
    damage, told = DAMAGES[name]
    damage(saved)
    with pytest.raises(ArtifactError) as caught:
        store.load(saved)
    message = str(caught.value)
    assert told in message
    assert str(saved) in message
    assert ": " in message
    assert "\n" not in message
