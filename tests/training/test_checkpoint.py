import contextlib
import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lmlab import disk
from lmlab.errors import ArtifactError, LmlabError, StorageError
from lmlab.training import checkpoint as module
from lmlab.training.checkpoint import Checkpoint, newest, write
from tests.training.runs import fit


def moment(step, value=1.0):
    return Checkpoint({"model/w": torch.full((4,), value), "carried/0": torch.ones(2, 3)}, {"step": step})


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_is_written_is_read_back(tmp_path):
    assert newest(tmp_path) is None
    written = moment(7)
    write(tmp_path, written)
    read = newest(tmp_path)
    assert read.counters == {"step": 7}
    assert all(torch.equal(read.tensors[name], written.tensors[name]) for name in written.tensors)
    assert torch.equal(read.group("model")["w"], torch.ones(4))
    assert read.group("mod") == {}


def test_the_older_ones_go_and_so_does_what_a_kill_left(tmp_path):
    write(tmp_path, moment(7))
    (tmp_path / "checkpoints" / ".step-000000008.abc").mkdir()
    write(tmp_path, moment(1_000))
    assert names(tmp_path) == ["step-000001000"]


def test_a_kill_amid_a_removal_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, moment(7))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **_: (path / "state.json").unlink())
        write(tmp_path, moment(8))
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["step-000000008"]
    write(tmp_path, moment(9))
    assert names(tmp_path) == ["step-000000009"]


def test_the_newest_counts_where_a_kill_left_two(tmp_path):
    for step in (9, 10, 100):
        write(tmp_path / str(step), moment(step))
        (tmp_path / str(step) / "checkpoints" / f"step-{step:09d}").rename(_place(tmp_path, step))
    assert newest(tmp_path).counters["step"] == 100


def _place(run, step):
    (run / "checkpoints").mkdir(exist_ok=True)
    return run / "checkpoints" / f"step-{step:09d}"


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("broken", ["fsync", "rename", "tensors", "counters"])
def test_a_failure_while_writing_leaves_the_older_one(tmp_path, monkeypatch, broken):
    write(tmp_path, moment(7))
    with monkeypatch.context() as patch:
        if broken == "fsync":
            patch.setattr(os, "fsync", full)
        elif broken == "rename":
            patch.setattr("pathlib.Path.rename", full)
        elif broken == "tensors":
            patch.setattr(module, "save_file", full)
        else:
            patch.setattr(disk, "write_json", full)
        with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\).*free some space"):
            write(tmp_path, moment(8, value=2.0))
    assert names(tmp_path) == ["step-000000007"]
    assert torch.equal(newest(tmp_path).group("model")["w"], torch.ones(4))


def test_a_half_written_one_is_never_visible(tmp_path, monkeypatch):
    """At every call that changes the disk, what can be found is whole."""
    write(tmp_path, moment(7))
    seen = []

    def spied(function):
        def call(*arguments, **named):
            seen.append(newest(tmp_path).counters["step"])
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(module, "save_file", spied(module.save_file))
    monkeypatch.setattr(os, "fsync", spied(os.fsync))
    monkeypatch.setattr(shutil, "rmtree", spied(shutil.rmtree))
    write(tmp_path, moment(8))
    assert seen[0] == 7
    assert seen[-1] == 8
    assert seen == sorted(seen)
    assert len(seen) > 4


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("file", ["training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [os.remove, truncated, lambda path: path.write_bytes(b"\x80\x04")])
def test_a_damaged_one_is_told_in_one_line(tmp_path, file, damage):
    write(tmp_path, moment(7))
    damage(tmp_path / "checkpoints" / "step-000000007" / file)
    with pytest.raises(ArtifactError) as caught:
        newest(tmp_path)
    assert "\n" not in str(caught.value)
    assert "step-000000007" in str(caught.value)


def test_a_checkpoint_holds_all_of_a_run_and_nothing_pickled(tmp_path):
    progress = fit(tmp_path / "run").go().progress
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["state.json", "training.safetensors"]
    groups = {name.partition("/")[0] for name in load_file(folder / "training.safetensors")}
    assert groups == {"model", "optimizer", "carried"}
    counters = json.loads((folder / "state.json").read_text())
    assert counters == {**vars(progress), "seconds": counters["seconds"], "sha256": counters["sha256"]}


def test_the_weights_are_kept_in_one_move(tmp_path, monkeypatch):
    run = fit(tmp_path / "run")
    module.keep_weights(run.model, tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    (tmp_path / "run" / ".weights-left").mkdir()
    with torch.no_grad():
        next(run.model.parameters()).add_(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            module.keep_weights(run.model, tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    module.keep_weights(run.model, tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.safetensors"]


def test_what_is_written_may_be_read_by_others(tmp_path):
    fit(tmp_path / "run", steps=1).go()
    for path in (tmp_path / "run").rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044, path


# -- what was damaged -------------------------------------------------------------------------------------------------


def flipped(path, at, bit=0):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["training.safetensors", "state.json"])
def test_every_flipped_bit_is_found(tmp_path, file):
    write(tmp_path, moment(7))
    path = tmp_path / "checkpoints" / "step-000000007" / file
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        flipped(path, at, at % 8)
        with contextlib.suppress(ArtifactError):
            assert newest(tmp_path).counters == {"step": 7}, at  # white space between counters
        path.write_bytes(whole)


def test_the_one_before_a_damaged_one_is_used_and_that_is_said(tmp_path):
    write(tmp_path / "other", moment(8))
    write(tmp_path, moment(7))
    (tmp_path / "other" / "checkpoints" / "step-000000008").rename(_place(tmp_path, 8))
    flipped(_place(tmp_path, 8) / "training.safetensors", -1)
    said = []
    assert newest(tmp_path, said.append).counters == {"step": 7}
    assert len(said) == 1
    assert "step-000000008 is damaged" in said[0]
    assert "going on from step-000000007" in said[0]
    flipped(_place(tmp_path, 7) / "training.safetensors", -1)
    with pytest.raises(ArtifactError, match="step-000000007 is damaged"):
        newest(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
    write(tmp_path, moment(7, value))
    with pytest.raises(ArtifactError, match="model/w holds NaN"):
        newest(tmp_path)


COUNTERS = vars(module.Progress(step=3, threads=1, row_blocks=1, plan="0:24", precision="fp32"))
FORGED = [None, -1, 10**400, float("inf"), float("nan"), "x", [], {}, 1.5, 0, True]


@pytest.mark.parametrize("name", [*COUNTERS, "nope"])
def test_forged_counters_with_a_right_checksum_run_or_are_refused(tmp_path, name):
    run = fit(tmp_path / "run", steps=3)
    run.go()
    found = newest(tmp_path / "run")
    for value in FORGED:
        counters = {**found.counters, name: value}
        again = fit(tmp_path / "run", steps=4, resume=Checkpoint(found.tensors, counters))
        again.run = None
        with contextlib.suppress(LmlabError):
            again.go()
    missing = {key: value for key, value in found.counters.items() if key != name}
    if name in COUNTERS:
        with pytest.raises(ArtifactError, match=name):
            fit(steps=4, resume=Checkpoint(found.tensors, missing)).go()


@pytest.mark.parametrize("shape", [(), (1,), (3, 5)])
def test_tensors_of_another_model_are_refused_in_one_line(tmp_path, shape):
    fit(tmp_path / "run", steps=2).go()
    found = newest(tmp_path / "run")
    for name in found.tensors:
        for tensors in (
            {**found.tensors, name: torch.zeros(shape)},
            {k: found.tensors[k] for k in found.tensors if k != name},
        ):
            with contextlib.suppress(LmlabError):
                fit(steps=3, resume=Checkpoint(tensors, found.counters)).go()
