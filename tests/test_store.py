import errno
import json
import os
import shutil
import stat

import pytest

from lmlab import store
from lmlab.codecs import build
from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError, LmlabError, RunExistsError
from lmlab.models.neural.cnn import CNN


def refuse(number):
    """What a full or forbidden disk does to a call."""

    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


def left(folder):
    return sorted(path.name for path in folder.iterdir())


# -- a file -----------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.txt"
    store.write_file(path, "one")
    store.write_file(path, "zwei é")
    assert path.read_bytes() == "zwei é".encode()
    store.write_file(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert left(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.rename"])
def test_on_a_full_disk_the_old_content_stands(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.txt"
    store.write_file(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(broken, refuse(errno.ENOSPC))
        with pytest.raises(ArtifactError) as caught:
            store.write_file(path, "new")
    assert str(caught.value) == (
        f"{path} cannot be written (No space left on device): free some space, or write elsewhere with -o"
    )
    assert path.read_text() == "old"
    assert left(tmp_path) == ["a.txt"]


def test_the_new_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    store.write_file(path, "old")
    seen = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append((path.read_text(), os.fstat(fd).st_size)), sync(fd))[1])
    store.write_file(path, "newer")
    assert seen == [("old", 5)]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be written"):
        store.write_file(tmp_path / "no" / "a.txt", "text")


def test_json_comes_back_as_it_was_written_readable_by_people(tmp_path):
    content = {"a": [1, 2.5, None], "ü": {"b": True}}
    store.write_json(tmp_path / "a.json", content)
    assert store.read_json(tmp_path / "a.json") == content
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")


# -- a folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_appears_whole_and_only_at_the_end(tmp_path):
    path = tmp_path / "deep" / "run"
    with store.atomic_folder(path) as folder:
        (folder / "a.txt").write_text("a")
        (folder / "inner").mkdir()
        (folder / "inner" / "b.txt").write_text("b")
        assert not path.exists()
    assert left(path) == ["a.txt", "inner"]
    assert left(path.parent) == ["run"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path / "inner").stat().st_mode) == 0o755


def test_everything_in_it_is_synced_before_it_appears(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), sync(fd))[1])
    with store.atomic_folder(tmp_path / "run") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "b.txt").write_text("b")
    wanted = [tmp_path, *(tmp_path / name for name in ("run", "run/inner", "run/inner/b.txt"))]
    assert {path.stat().st_ino for path in wanted} <= set(synced)
    assert synced[-1] == tmp_path.stat().st_ino


@pytest.mark.parametrize("error", [LmlabError("no"), ValueError("no"), KeyboardInterrupt()])
def test_a_failure_inside_leaves_nothing_and_is_passed_on(tmp_path, error):
    def fill():
        with store.atomic_folder(tmp_path / "run") as folder:
            (folder / "a.txt").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert left(tmp_path) == []


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.rename"])
@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "write where you may"),
        (errno.EIO, "see that the place exists"),
    ],
)
def test_what_the_disk_refuses_leaves_nothing(tmp_path, monkeypatch, broken, number, remedy):
    monkeypatch.setattr(broken, refuse(number))
    told = rf"cannot be written \({os.strerror(number)}\): {remedy}"
    with pytest.raises(ArtifactError, match=told) as caught, store.atomic_folder(tmp_path / "run") as folder:
        (folder / "a.txt").write_text("a")
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []


def test_weights_that_the_disk_refuses_are_told_like_any_file(tmp_path):
    """The library that writes weights has an error of its own."""
    model = CNN(CNN.Settings(channels=2, embedding=2, layers=1), 5)
    told = r"run cannot be written \(.*(No such file|I/O error)"
    with pytest.raises(ArtifactError, match=told), store.atomic_folder(tmp_path / "run") as folder:
        model.save(folder / "nowhere")
    assert left(tmp_path) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    told = "run already exists: choose another -o"
    with pytest.raises(RunExistsError, match=told), store.atomic_folder(tmp_path / "run"):
        raise AssertionError("the block must not run")


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    told = "a file stands where a folder is needed"
    with pytest.raises(ArtifactError, match=told), store.atomic_folder(tmp_path / "file" / "run"):
        raise AssertionError("the block must not run")


# -- a model directory ------------------------------------------------------------------------------------------------

CODEC = build("char", {}, [Document("to be or not to be")])
CONFIG = {
    "source": "text",
    "seed": 3,
    "data": {},
    "codec": {"kind": "char"},
    "model": {"kind": "cnn", "channels": 4, "embedding": 3, "layers": 1},
    "train": {},
    "vocab_size": CODEC.vocab_size,
}


@pytest.fixture
def saved(tmp_path):
    settings = CNN.Settings(channels=4, embedding=3, layers=1)
    path = tmp_path / "run"
    manifest = store.new_manifest(CONFIG, {"sha256": "0"})
    store.save(path, CNN(settings, CODEC.vocab_size), CODEC, CONFIG, manifest, None)
    return path


def test_a_model_directory_comes_back(saved):
    found = store.load(saved)
    assert (found.config, found.manifest["kind"], found.manifest["seed"]) == (CONFIG, "cnn", 3)
    assert found.manifest["made_by"]["torch"]
    assert found.codec.encode("to").ids.tolist() == CODEC.encode("to").ids.tolist()
    assert found.model.settings.channels == 4
    assert sorted(left(saved)) == ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]


def test_the_curve_of_the_run_goes_along(saved, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}")
    found = store.load(saved)
    store.save(tmp_path / "copy", found.model, found.codec, found.config, found.manifest, tmp_path)
    assert (tmp_path / "copy" / "metrics.jsonl").read_text() == "{}"
    assert not (tmp_path / "copy" / "curve.png").exists()


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
    "no config": (lambda run: (run / "config.json").unlink(), "is no model directory (no config.json)"),
    "another format": (
        lambda run: changed(run / "manifest.json", format=99),
        "has format 99, but this version reads 1",
    ),
    "no format": (lambda run: (run / "manifest.json").write_text("{}"), "has format None, but this version reads 1"),
    "a list": (lambda run: (run / "manifest.json").write_text("[]"), "manifest.json is damaged (not an object)"),
    "half a manifest": (lambda run: half(run / "manifest.json"), "manifest.json is damaged"),
    "half a config": (lambda run: half(run / "config.json"), "config.json is damaged"),
    "an empty config": (lambda run: (run / "config.json").write_text("{}"), "config.json is damaged"),
    "no text": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
    "a model that is a word": (lambda run: changed(run / "config.json", model="cnn"), "config.json is damaged"),
    "a vocabulary of text": (lambda run: changed(run / "config.json", vocab_size="many"), "config.json is damaged"),
    "another vocabulary": (lambda run: changed(run / "config.json", vocab_size=999), "is inconsistent"),
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
