from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from lmlab.errors import SettingError, StorageError
from lmlab.memory import Rows, forget, parse_size, resident, room, save_array

MANY = 1 << 18


@pytest.mark.parametrize("text", ["", "much", "1X", "-1G", "1 G G", "G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(SettingError, match="memory is"):
        parse_size(text)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("many", [0, 3, MANY])
def test_forgetting_keeps_what_was_written(many: int, on_disk: bool) -> None:
    array = room((many, 2), np.uint64, on_disk=on_disk)
    assert array.shape == (many, 2)
    assert not array.any()
    array[:] = np.arange(2 * many).reshape(many, 2)
    forget(array, array[1:])
    assert np.array_equal(array.ravel(), np.arange(2 * many))


@pytest.mark.skipif(resident() is None, reason="the system does not tell what is in memory")
def test_what_is_forgotten_takes_no_memory() -> None:
    array = room((32 << 20,), np.uint8, on_disk=True)
    array[:] = 1
    before = resident() or 0
    forget(array)
    assert (resident() or 0) < before - (24 << 20)
    assert array.min() == 1


def test_arrays_on_disk_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = room((MANY,), np.uint64, on_disk=True)
    array[-1] = 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot set disk space aside")
def test_a_full_disk_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left"):
        room((MANY,), np.uint64, on_disk=True)


@pytest.mark.parametrize(("platform", "reserved"), [("linux", 1 << 20), ("linux", 1 << 60), ("other", 1 << 20)])
def test_rows_keep_their_beginning(platform: str, reserved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("lmlab.memory._RESERVED", reserved)
    rows = Rows(2, 2, np.uint64)
    rows.array[:] = 5
    for many in (10, MANY, 3 * MANY):
        rows.grow(many)
        assert len(rows.array) >= many
        assert rows.array[:2].tolist() == [[5, 5], [5, 5]]
        assert not rows.array[2:].any()


@pytest.mark.parametrize("array", [np.arange(5, dtype="<u4"), np.empty(0, dtype="<f4"), np.arange(3 * MANY)[::3]])
def test_saved_arrays_are_numpys(array: np.ndarray, tmp_path: Path) -> None:
    save_array(tmp_path / "ours.npy", array)
    np.save(tmp_path / "theirs.npy", np.ascontiguousarray(array))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
