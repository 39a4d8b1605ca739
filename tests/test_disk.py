import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import lmlab
from lmlab import disk
from lmlab.disk import held
from lmlab.errors import HeldError, LmlabError, RunExistsError, StorageError, UsageError
from lmlab.facade.estimate import import_arpa
from lmlab.integrity import read_json
from lmlab.models.neural.cnn import CNN


def refuse(number):
    """What a full or forbidden disk does to a call."""

    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


def left(folder):
    return sorted(path.name for path in folder.iterdir())


# -- a file -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "y" * 5000, "a\0b", "\0", "\ud800"])
def test_what_cannot_be_a_name_is_told(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attempts = [
        lambda: disk.exists(name),
        lambda: disk.write_file(Path(name), ""),
        lambda: lmlab.load(name),
        lambda: lmlab.train(name),
        lambda: import_arpa(name),
        lambda: lmlab.train(text="abc", out=name),
        lambda: lmlab.estimate(__file__, out=name),
        lambda: lmlab.train(text="abc", recipe=f"{name}.toml"),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError) as told:
            attempt()
        assert len(str(told.value)) < 400


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.txt"
    disk.write_file(path, "one")
    disk.write_file(path, "zwei é")
    assert path.read_bytes() == "zwei é".encode()
    disk.write_file(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert left(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.rename"])
def test_on_a_full_disk_the_old_content_stands(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.txt"
    disk.write_file(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(broken, refuse(errno.ENOSPC))
        with pytest.raises(StorageError) as caught:
            disk.write_file(path, "new")
    assert str(caught.value).startswith(f"{path} cannot be written (No space left on device): free some space, or")
    assert path.read_text() == "old"
    assert left(tmp_path) == ["a.txt"]


def test_the_new_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    disk.write_file(path, "old")
    seen = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append((path.read_text(), os.fstat(fd).st_size)), sync(fd))[1])
    disk.write_file(path, "newer")
    assert seen == [("old", 5)]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        disk.write_file(tmp_path / "no" / "a.txt", "text")


def test_json_comes_back_as_it_was_written_readable_by_people(tmp_path):
    content = {"a": [1, 2.5, None], "ü": {"b": True}}
    disk.write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json", "") == content
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")


# -- a folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_appears_whole_and_only_at_the_end(tmp_path):
    path = tmp_path / "deep" / "run"
    with disk.atomic_folder(path) as folder:
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
    with disk.atomic_folder(tmp_path / "run") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "b.txt").write_text("b")
    wanted = [tmp_path, *(tmp_path / name for name in ("run", "run/inner", "run/inner/b.txt"))]
    assert {path.stat().st_ino for path in wanted} <= set(synced)
    assert synced[-1] == tmp_path.stat().st_ino


@pytest.mark.parametrize("error", [LmlabError("no"), ValueError("no"), KeyboardInterrupt()])
def test_a_failure_inside_leaves_nothing_and_is_passed_on(tmp_path, error):
    def fill():
        with disk.atomic_folder(tmp_path / "run") as folder:
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
    with pytest.raises(StorageError, match=told) as caught, disk.atomic_folder(tmp_path / "run") as folder:
        (folder / "a.txt").write_text("a")
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []


def test_weights_that_the_disk_refuses_are_told_like_any_file(tmp_path):
    """The library that writes weights has an error of its own."""
    model = CNN(CNN.Settings(channels=2, embedding=2, layers=1), 5)
    told = r"run cannot be written \(.*(No such file|I/O error)"
    with pytest.raises(StorageError, match=told), disk.atomic_folder(tmp_path / "run") as folder:
        model.save(folder / "nowhere")
    assert left(tmp_path) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    told = "run already exists: choose another -o"
    with pytest.raises(RunExistsError, match=told), disk.atomic_folder(tmp_path / "run"):
        raise AssertionError("the block must not run")


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    told = "a file stands where a folder is needed"
    with pytest.raises(StorageError, match=told), disk.atomic_folder(tmp_path / "file" / "run"):
        raise AssertionError("the block must not run")


def test_what_is_no_plain_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(StorageError, match="no plain file"):
            disk.write_file(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


# -- locks ------------------------------------------------------------------------------------------------------------

HOLDS = """
import sys, time
import lmlab
from lmlab import disk
with disk.held(disk.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_holds_at_a_time_and_its_end_frees_the_lock(tmp_path):
    path = tmp_path / "new" / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(HeldError, match=rf"run is in use by process {holder.pid} on .*: wait until it ends"),
        held(path),
    ):
        pass
    holder.kill()
    holder.communicate()
    with held(path), pytest.raises(HeldError, match=f"process {os.getpid()} on"), held(path):
        pass
    assert not list(path.parent.iterdir())


def test_a_link_in_a_circle_is_told_before_the_work_begins(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(StorageError, match="leads back to itself"), held(tmp_path / "a"):
        raise AssertionError("the work began")
    assert left(tmp_path) == ["a", "b"]
