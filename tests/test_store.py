import copy
import dataclasses
import json
import os
import random
import shutil
from pathlib import Path

import pytest

import lmlab
from lmlab import integrity, store
from lmlab.corpora.document import Document
from lmlab.disk import cache_dir
from lmlab.errors import ArtifactError, LmlabError
from lmlab.integrity import json_sum, sha256_of
from lmlab.models.base import whole
from lmlab.models.neural.cnn import CNN
from lmlab.packed import extent, members
from lmlab.run_config import RunConfig
from lmlab.tokens import build_tokenizer
from lmlab.tokens.base import _model_of as model_of

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
        "token_counts.npy",
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


def signed(run, **values):
    """Let the manifest say this, and agree with the files."""
    manifest = json.loads((run / "manifest.json").read_text()) | values
    store.sign(run, {name: value for name, value in manifest.items() if value is not None})


def forged(run, **values):
    """Change the configuration, and sign it."""
    changed(run / "config.json", **values)
    signed(run)


DAMAGES = {
    "no directory": (lambda run: shutil.rmtree(run), "is no model directory (no such folder)"),
    "a file": (lambda run: (shutil.rmtree(run), run.write_text("")), "is no model directory (a file, but no model)"),
    "an empty directory": (
        lambda run: [path.unlink() for path in run.iterdir()],
        "is no model directory (no manifest.json)",
    ),
    "another letter in the vocabulary": (
        lambda run: (run / "tokenizer.json").write_text((run / "tokenizer.json").read_text().replace('"b"', '"z"')),
        "tokenizer.json is damaged (not what was written)",
    ),
    "no config": (lambda run: (run / "config.json").unlink(), "config.json cannot be read (No such file"),
    "another setting": (
        lambda run: changed(run / "config.json", seed=4),
        "config.json is damaged (not what was written)",
    ),
    "another result": (
        lambda run: changed(run / "manifest.json", results={"test": 0}),
        "manifest.json is damaged (not what was written)",
    ),
    "another format": (lambda run: signed(run, format=99), "has format 99, but this version reads 3"),
    "a format that is a table": (lambda run: signed(run, format={}), "has format {}, but this version reads 3"),
    "no format": (lambda run: (run / "manifest.json").write_text("{}"), "has format None, but this version reads 3"),
    "a kind that is none": (lambda run: signed(run, kind=3), "manifest.json is damaged (kind)"),
    "no results": (lambda run: signed(run, results=None), "manifest.json is damaged (results)"),
    "a list": (lambda run: (run / "manifest.json").write_text("[]"), "manifest.json is damaged (not an object)"),
    "half a manifest": (lambda run: half(run / "manifest.json"), "manifest.json is damaged"),
    "half a config": (lambda run: half(run / "config.json"), "config.json is damaged"),
    "an empty config": (lambda run: (run / "config.json").write_text("{}"), "config.json is damaged"),
    "no text": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
    "a model that is a word": (lambda run: forged(run, model="cnn"), "config.json is damaged"),
    "a kind that is a number": (lambda run: forged(run, model={"kind": 3}), "config.json is damaged"),
    "a setting out of bounds": (lambda run: forged(run, train={"lr": -1}), "config.json is damaged"),
    "named that is no list": (lambda run: forged(run, named={"a": 1}), "config.json is damaged"),
    "a vocabulary of text": (lambda run: signed(run, vocab_size="many"), "is inconsistent"),
    "another vocabulary": (lambda run: signed(run, vocab_size=999), "is inconsistent"),
    "the first format": (
        lambda run: changed(run / "manifest.json", format=1),
        "has format 1, but this version reads 3: make it again: lmlab train --recipe",
    ),
    "no tokenizer": (lambda run: (run / "tokenizer.json").unlink(), "tokenizer.json"),
    "half a tokenizer": (lambda run: half(run / "tokenizer.json"), "tokenizer.json"),
    "a tokenizer nested deeply": (
        lambda run: ((run / "tokenizer.json").write_text(100_000 * "["), signed(run)),
        "tokenizer.json is damaged",
    ),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "half the weights": (lambda run: half(run / "model.safetensors"), "model.safetensors is damaged"),
    "weights of another run": (
        lambda run: CNN(CNN.Settings(channels=4, embedding=3, layers=1), TOKENIZER.vocab_size).save(run),
        "model.safetensors is damaged (not what was written)",
    ),
    "a model too large": (
        lambda run: forged(run, model={"kind": "cnn", "channels": 65_000, "layers": 200}),
        "is not of this configuration (convolutions.0.bias is float32 (4,), wanted is float32 (65000,))",
    ),
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


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("put", ["a pipe", "a link", "a device", "a folder"])
def test_only_regular_files_are_read(saved, tmp_path, name, put):
    """A pipe would be waited for, a device never ends, a link may lead anywhere."""
    (saved / name).rename(tmp_path / "elsewhere")
    place = saved / name
    {
        "a pipe": lambda: os.mkfifo(place),
        "a link": lambda: place.symlink_to(tmp_path / "elsewhere"),
        "a device": lambda: place.symlink_to("/dev/zero"),
        "a folder": place.mkdir,
    }[put]()
    with pytest.raises(ArtifactError, match=r"is no regular file|is no model directory \(no manifest\.json\)"):
        store.load(saved)


def test_every_bit_counts(saved):
    """Of any file: what was flipped is found, whether it makes sense or not."""
    drawn = random.Random(0)
    for path in sorted(saved.iterdir()):
        content = path.read_bytes()
        for _ in range(20):
            at, bit = drawn.randrange(len(content)), 1 << drawn.randrange(8)
            path.write_bytes(bytes([*content[:at], content[at] ^ bit, *content[at + 1 :]]))
            with pytest.raises(ArtifactError, match=r"is damaged|has format"):
                store.load(saved)
        path.write_bytes(content)
    store.load(saved)


ODD = [None, True, -1, 0, 10**30, 1.5, "", "x", "\ud800", [], [1], {}, {"a": 1}]


def with_one_changed(content, drawn):
    """A copy of JSON content in which one value anywhere is another, or gone."""
    content = copy.deepcopy(content)
    place = content
    while True:
        key = drawn.choice([*place] if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], (dict, list)) or not place[key] or drawn.random() < 0.3:
            break
        place = place[key]
    if drawn.random() < 0.2:
        del place[key]
    else:
        place[key] = drawn.choice(ODD)
    return content


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "tokenizer.json"])
def test_whatever_is_signed_loads_or_is_told_in_one_line(saved, name):
    drawn, path, told = random.Random(0), saved / name, []
    content, manifest = json.loads(path.read_text()), json.loads((saved / "manifest.json").read_text())
    for _ in range(300):
        forged = with_one_changed(content, drawn)
        if name == "manifest.json":
            forged.pop("sha256", None)
            path.write_text(json.dumps(forged | {"sha256": json_sum(forged)}))
        else:
            path.write_text(json.dumps(forged))
            store.sign(saved, manifest)
        try:
            store.load(saved)
        except LmlabError as error:
            told.append(str(error))
    assert len(told) > 5
    assert not any("\n" in message for message in told)


# -- what was compared is remembered ----------------------------------------------------------------------------------


@pytest.fixture
def opened(saved, monkeypatch):
    """Opens the model; returns the files whose sums were compared."""
    compared = []
    monkeypatch.setenv("LMLAB_CACHE", str(saved.parent / "cache"))
    monkeypatch.setattr(integrity, "sha256_of", lambda path: compared.append(path.name) or sha256_of(path))

    def load():
        compared.clear()
        store.load(saved)
        return sorted(compared)

    return load


FILES = ["config.json", "model.safetensors", "token_counts.npy", "tokenizer.json"]


def test_sums_are_compared_once(saved, opened, monkeypatch):
    monkeypatch.setattr(integrity, "_SETTLED", 0)
    assert opened() == FILES
    assert opened() == []
    os.utime(saved / "tokenizer.json")
    assert opened() == FILES
    assert opened() == []
    shutil.copytree(saved, saved.parent / "copy")
    monkeypatch.setattr(integrity, "_identity", lambda path: [0])
    assert opened() == FILES


def test_a_file_as_young_as_this_is_compared_again(opened, monkeypatch):
    """One that changed within the tick of a file system's clock would look the same."""
    monkeypatch.setattr(integrity, "_SETTLED", 3600)
    assert opened() == opened() == FILES


@pytest.mark.parametrize("note", [b"", b"[]", b"{", b"\xff", b"[" * 10_000])
def test_a_damaged_memory_is_no_memory(saved, opened, monkeypatch, note):
    monkeypatch.setattr(integrity, "_SETTLED", 0)
    opened()
    (remembered,) = (cache_dir() / "verified").glob("*.json")
    remembered.write_bytes(note)
    assert opened() == FILES


def test_a_cache_that_cannot_be_written_costs_time_alone(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(integrity, "_SETTLED", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "file"))
    assert opened() == opened() == FILES


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """An n-gram model, opened before on this machine."""
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(integrity, "_SETTLED", 0)
    (tmp_path / "text").write_text("to be or not to be\nthat is the question\n" * 3)
    lmlab.estimate(tmp_path / "text", order=3, out=tmp_path / "kn").save(tmp_path / "kn.lm")
    for path in (tmp_path / "kn", tmp_path / "kn.lm"):
        lmlab.load(path).score("to be")
    return tmp_path


def times(path):
    return path.stat().st_atime_ns, path.stat().st_mtime_ns


def flipped_keeping_its_times(path, at):
    """A change within, the size and the time of modification as before: the system's time of change tells."""
    before, content = times(path), bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=before)


def replaced_keeping_its_times(path, at):
    """Another file under the name: its number tells."""
    before, beside = times(path), path.with_name("beside")
    shutil.copy(path, beside)
    flipped_keeping_its_times(beside, at)
    os.utime(beside, ns=before)
    beside.replace(path)


@pytest.mark.parametrize("change", [flipped_keeping_its_times, replaced_keeping_its_times])
def test_a_change_after_a_file_was_verified_is_noticed(counted, change):
    """In any file of a folder, and anywhere in one file; whatever is done to hide it."""
    whole = counted / "kn.lm"
    places = [(whole, extent(whole / name).start) for name in members(whole) if extent(whole / name).size]
    for path, at in [(path, -2) for path in sorted((counted / "kn").iterdir())] + places:
        content = path.read_bytes()
        change(path, at)
        with pytest.raises(ArtifactError, match=r"damaged|not sound|no sound"):
            lmlab.load(path if path == whole else path.parent)
        path.write_bytes(content)
    assert [lmlab.load(counted / name).score("to be").columns for name in ("kn", "kn.lm")]


def test_what_is_known_is_not_read_to_be_opened(counted, monkeypatch):
    """No array is gone through, and no word becomes a string before one is asked for."""
    decoded = []
    monkeypatch.setattr("lmlab.tokens.base._model_of", lambda *given: decoded.append(given) or model_of(*given))
    monkeypatch.setattr("lmlab.models.ngram.model.check_arrays", lambda levels: pytest.fail("looked through"))
    monkeypatch.setattr("lmlab.models.ngram.model.check_array", lambda *given: pytest.fail("read whole"))
    for name in ("kn", "kn.lm"):
        found = store.load(counted / name)
        assert (found.tokenizer.vocab_size, decoded) == (12, [])
        assert found.tokenizer.encode("to be").ids.tolist() == [4, 5]
        assert decoded
        decoded.clear()


def test_a_file_without_a_sum_must_stay_as_it_was_too(counted):
    """A forged manifest may leave an array out; it is looked through whenever it is another."""
    manifest = store.read_manifest(counted / "kn")
    del manifest["files"]["key_2.npy"]
    store.write_manifest(counted / "kn", manifest)
    lmlab.load(counted / "kn")
    flipped_keeping_its_times(counted / "kn" / "key_2.npy", -2)
    with pytest.raises(ArtifactError, match="key_2"):
        lmlab.load(counted / "kn")


# -- a run under way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True])
def test_weights_take_the_place_of_others(saved, tmp_path, monkeypatch, killed):
    """A kill before they do leaves the old ones, which the manifest still allows."""
    model = CNN(CNN.Settings(channels=4, embedding=3, layers=1), TOKENIZER.vocab_size)
    before = whole(store.load(saved).model).output.bias.tolist()
    (tmp_path / "made").mkdir()
    model.save(tmp_path / "made")
    with monkeypatch.context() as patch:
        if killed:
            patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                store.replace_files(saved, tmp_path / "made")
        else:
            store.replace_files(saved, tmp_path / "made")
    assert whole(store.load(saved).model).output.bias.tolist() == (before if killed else model.output.bias.tolist())


@pytest.mark.parametrize("killed_before", ["config.json", "manifest.json"])
def test_a_kill_amid_the_results_leaves_a_run_that_opens(saved, monkeypatch, killed_before):
    """A configuration may change at the end of a run (a timed one writes what it planned)."""
    manifest, rename, seen = store.read_manifest(saved), Path.rename, []

    def renamed(self, target):
        seen.append(Path(target).name)
        if killed_before == seen[-1] and len(seen) > 1:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", renamed)
        with pytest.raises(KeyboardInterrupt):
            store.write_results(saved, dataclasses.replace(CONFIG, seed=9), manifest)
    assert seen[0] == "manifest.json"
    assert store.load(saved).config.seed == (3 if killed_before == "config.json" else 9)
