"""Counting by shards: the model of one process, byte for byte, whatever the shards, the workers and the accidents."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmlab
from lmlab import errors
from lmlab.cli import main
from lmlab.corpora import raw
from lmlab.errors import ArtifactError, DataError, EmptyDataError, LmlabError, SettingError, UsageError, WorkerError
from lmlab.facade import sharding, shards
from lmlab.facade.estimate import merge
from lmlab.facade.shards import Shard, count_shard
from lmlab.kernels import engine
from lmlab.models.ngram import Ngram
from lmlab.models.ngram.count_files import ABOUT
from lmlab.progress import Silent
from tests.texts import some_text

TEXT = some_text(60)
MODEL = Ngram.Settings(order=3)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_RANGE", 100)


def estimate(*sources: Any, out: str, **named: Any) -> Path:
    folder = lmlab.estimate(*sources, out=out, reporter=Silent(), **{"order": 3, **named}).folder
    assert folder is not None
    return folder


def in_threads(*sources: Any, out: str, workers: int = 2, **named: Any) -> Path:
    with ThreadPoolExecutor(workers) as executor:
        return estimate(*sources, out=out, executor=executor, **named)


def count_all(*texts: str, of: int, name: str = "counts", model: Ngram.Settings = MODEL) -> list[Path]:
    folders = [Path(f"{name}-{number}") for number in range(1, of + 1)]
    for shard, folder in zip(Shard.all_of(texts, of, model), folders, strict=True):
        assert count_shard(shard, folder)
    return folders


def same(run: Path, expected: Path, *besides: str) -> None:
    """Every file but the manifest, which tells seconds, holds the same bytes."""
    names = {path.name for path in expected.iterdir()}
    assert {path.name for path in run.iterdir()} == names
    for name in names - {"manifest.json", *besides}:
        assert (run / name).read_bytes() == (expected / name).read_bytes(), name


# ---- the same model


@pytest.mark.parametrize("named", [{}, {"order": 1}, {"vocab_size": 20}, {"min_count": 2, "smoothing": "witten-bell"}])
@pytest.mark.parametrize(("of", "workers"), [(1, 1), (2, 3), (7, 2), (70, 2)])
def test_the_model_of_one_process(of: int, workers: int, named: dict[str, Any], here: Path) -> None:
    same(
        in_threads("text.txt", out="many", shards=of, workers=workers, **named),
        estimate("text.txt", out="one", **named),
    )
    assert not Path("many.counts").exists()


@pytest.mark.parametrize("named", [{}, {"vocab_size": 20}, {"min_count": 2, "prune": (0, 0, 1)}])
def test_counts_made_apart_are_merged(named: dict[str, Any], here: Path) -> None:
    """Each shard has word ids of its own, and the folders come in any order."""
    folders = count_all("text.txt", of=5)
    lm = merge(*reversed(folders), out="many", reporter=Silent(), **named)
    assert lm.folder is not None
    same(lm.folder, estimate("text.txt", out="one", **named))


def test_compiled_processes_within_a_bound(here: Path) -> None:
    with engine.only(True):
        expected = estimate("text.txt", out="one", memory="600M")
    same(estimate("text.txt", out="many", shards=3, memory="600M"), expected)


def test_several_texts_some_compressed(here: Path) -> None:
    lines = TEXT.splitlines(keepends=True)
    Path("a.txt").write_text("".join(lines[:20]).rstrip("\n"), encoding="utf-8")  # and no end to its last line
    Path("b.gz").write_bytes(gzip.compress("".join(lines[20:40]).encode()))
    Path("c.txt").write_text("".join(lines[40:]), encoding="utf-8")
    Path("none.txt").touch()
    texts = ["a.txt", "none.txt", "b.gz", "c.txt"]
    for compat in ("none", "lmplz"):
        one = estimate(*texts, out=f"one-{compat}", compat=compat)
        for of in (1, 6):
            same(in_threads(*texts, out=f"many-{compat}-{of}", shards=of, compat=compat), one)
    folders = [*count_all("a.txt", of=2, name="a"), *count_all("b.gz", of=1, name="b")]
    folders += count_all("c.txt", of=3, name="c")
    lm = merge(*folders, out="apart", reporter=Silent())
    same(Path("apart"), estimate("a.txt", "b.gz", "c.txt", out="together"))
    assert lm.manifest["data"]["name"] == "a.txt, b.gz, c.txt"


@settings(deadline=None, max_examples=80)
@given(text=st.text("ab \n\r\ufeffé", max_size=40), of=st.integers(1, 9))
def test_every_line_is_in_one_shard(text: str, of: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_bytes(text.encode())
    found = [b"".join(o.read()) for n in range(1, of + 1) for o in raw.shard(["text"], path.parent, n, of)]
    assert b"".join(found) == text.encode()
    assert all(piece.endswith(b"\n") for piece in [piece for piece in found if piece][:-1])


@pytest.mark.parametrize("mark", ["\ufeff", "BZh91AY&SY"])
def test_a_mark_within_a_text_is_none_where_a_shard_begins(mark: str, here: Path) -> None:
    Path("marked.txt").write_text(f"a b\n{mark}c d\n", encoding="utf-8")
    same(in_threads("marked.txt", out="many", shards=2), estimate("marked.txt", out="one"))


def test_words_hold_what_python_takes_for_space(here: Path) -> None:
    Path("odd.txt").write_text("a\x0bb\x0cc \x1cd\u00a0e \x85f \u2028g\n" * 9, encoding="utf-8")
    run = in_threads("odd.txt", out="many", shards=2)
    same(run, estimate("odd.txt", out="one"))
    same(Path(str(merge(*count_all("odd.txt", of=2), out="apart", reporter=Silent()).folder)), run)


# ---- again, and accidents


def test_whole_counts_are_not_counted_again(here: Path) -> None:
    folders = count_all("text.txt", of=3)
    before = [(folder / ABOUT).stat().st_mtime_ns for folder in folders]
    jobs = Shard.all_of(["text.txt"], 3, MODEL)
    assert not any(count_shard(job, folder) for job, folder in zip(jobs, folders, strict=True))
    assert [(folder / ABOUT).stat().st_mtime_ns for folder in folders] == before
    with pytest.raises(errors.RunExistsError, match="counts-2 already exists"):
        count_shard(jobs[0], folders[1])
    flip(folders[1] / "key_2.npy")
    assert count_shard(jobs[1], folders[1], overwrite=True)
    Path("text.txt").write_text(TEXT.upper(), encoding="utf-8")
    assert all(count_shard(job, folder, overwrite=True) for job, folder in zip(jobs, folders, strict=True))


def test_what_is_no_counts_is_never_overwritten(here: Path) -> None:
    Path("mine").mkdir()
    with pytest.raises(errors.RunExistsError):
        count_shard(Shard.all_of(["text.txt"], 1, MODEL)[0], Path("mine"), overwrite=True)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


def test_any_damage_is_told_in_a_line(here: Path) -> None:
    folders = count_all("text.txt", of=2)
    for path in sorted(folders[1].iterdir()):
        kept = path.read_bytes()
        flip(path)
        with pytest.raises(ArtifactError, match=r"counts-2.* is damaged .*: count it again"):
            merge(*folders, out="run", reporter=Silent())
        path.write_bytes(kept[:-3])
        with pytest.raises(ArtifactError, match=r"counts-2.* is damaged .*: count it again"):
            merge(*folders, out="run", reporter=Silent())
        path.unlink()
        with pytest.raises(ArtifactError, match="counts-2"):
            merge(*folders, out="run", reporter=Silent())
        path.write_bytes(kept)
    assert not Path("run").exists()
    merge(*folders, out="run", reporter=Silent())


@pytest.mark.parametrize(
    ("name", "value"), [("key_2", 0), ("key_3", 2**63), ("suffix_3", 2**32 - 1), ("key_2", 2**32 - 1)]
)
def test_forged_counts_lead_nowhere(name: str, value: int, here: Path) -> None:
    """What is signed anew is whole, but its numbers may point anywhere."""
    from lmlab.models.ngram.count_files import read_about, read_arrays, write_arrays

    folders = count_all("text.txt", of=2)
    about = read_about(folders[0])
    arrays = {
        each: array.copy()
        for each, array in zip(about["arrays"], read_arrays(folders[0], *about["arrays"]), strict=True)
    }
    arrays[name][3] = value
    write_arrays(
        folders[0], arrays.items(), {key: kept for key, kept in about.items() if key not in ("arrays", "sha256")}
    )
    with pytest.raises(ArtifactError, match="counts-1 is damaged"):
        merge(*folders, out="run", reporter=Silent())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shard": [1, 2**31]}, "holds no counts of a shard"),  # a list of those that are missing would fill memory
        ({"words": b"two  spaces"}, "its words are not a space apart"),
        ({"words": b"a\tb"}, "its words are not a space apart"),
    ],
)
def test_a_forged_description_leads_nowhere(change: dict[str, Any], said: str, here: Path) -> None:
    from lmlab.models.ngram.count_files import read_about, read_arrays, write_arrays

    (folder,) = count_all("text.txt", of=1)
    about = read_about(folder)
    arrays = dict(zip(about["arrays"], read_arrays(folder, *about["arrays"]), strict=True))
    if words := change.pop("words", b""):
        arrays["words"] = np.frombuffer(words, np.uint8)
    kept = {key: value for key, value in about.items() if key not in ("arrays", "sha256")}
    write_arrays(folder, arrays.items(), kept | change)
    with pytest.raises(ArtifactError, match=said):
        merge(folder, reporter=Silent())


def test_shards_that_do_not_belong_together(here: Path) -> None:
    folders = count_all("text.txt", of=4)
    with pytest.raises(UsageError, match="2 of 4 are missing: 2, 4: make them, as by `lmlab ngram count --shard 2/4`"):
        merge(folders[0], folders[2], reporter=Silent())
    with pytest.raises(UsageError, match=r"are both shard 2 of 4 of text.txt: name one"):
        merge(*folders, folders[1], reporter=Silent())
    other = count_all("text.txt", of=1, name="other", model=Ngram.Settings(order=2))
    with pytest.raises(UsageError, match="other-1 was made with order 2, but counts-1 with 3"):
        merge(*folders, *other, reporter=Silent())
    about = folders[3] / ABOUT
    about.write_text(about.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ArtifactError, match="counts-4 has format 2 of counts, but this version reads 1"):
        merge(*folders, reporter=Silent())
    with pytest.raises(ArtifactError, match="holds no counts"):
        merge(here, reporter=Silent())


def test_what_cannot_be_shared_out(here: Path) -> None:
    with pytest.raises(SettingError, match="shards is 0"):
        estimate("text.txt", out="run", shards=0)
    for source in ("-", ["a b"]):
        with pytest.raises(UsageError, match="cannot be cut into shards"):
            estimate(source, out="run", shards=2)
    with pytest.raises(DataError, match=r"gone.txt cannot be read"):
        estimate("gone.txt", out="run", shards=2)
    Path("blank.txt").write_text("", encoding="utf-8")
    with pytest.raises(EmptyDataError, match="no tokens"):
        in_threads("blank.txt", out="run", shards=2)
    Path("bad.txt").write_bytes(TEXT.encode() + b"\xff\n")
    with pytest.raises(DataError, match=f"bad.txt is not UTF-8: byte 0xff at offset {len(TEXT.encode())}"):
        in_threads("bad.txt", out="run", shards=3)


def test_counts_beyond_32_bits(here: Path) -> None:
    with pytest.raises(DataError, match="a word occurs 4,294,967,296 times, but at most 4,294,967,295"):
        shards._summed([np.full(4, 2**31, dtype=np.uint32)] * 2, [np.arange(4)] * 2, 4)


def _die(*call: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("phase", ["count_shard", "check_shard", "merge_range"])
def test_a_killed_worker_is_told_and_the_next_call_goes_on(
    phase: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shards, phase, _die)
        with (
            ProcessPoolExecutor(2, get_context("spawn")) as pool,
            pytest.raises(WorkerError, match="a worker or its scheduler was lost"),
        ):
            estimate("text.txt", out="run", shards=2, executor=pool)
    assert not Path("run").exists()
    kept = {path: path.stat().st_mtime_ns for path in Path("run.counts").glob(f"counts-*/{ABOUT}")}
    assert len(kept) == (2 if phase in ("check_shard", "merge_range") else 0)
    counted = []
    real = count_shard
    monkeypatch.setattr(shards, "count_shard", lambda *call: counted.append(real(*call)) or counted[-1])
    same(in_threads("text.txt", out="run", shards=2), estimate("text.txt", out="one"))
    assert counted == [not kept] * 2


def test_errors_come_out_of_another_process_as_they_were() -> None:
    made = [
        SettingError("memory", "1M", "at least 512M"),
        errors.UnknownNameError("model", "x", ["y"]),
        errors.RunExistsError("run"),
        errors.MissingExtraError("it", "dask"),
        errors.HeldError("run", "process 1"),
        DataError("there is none", "give some"),
    ]
    for error in made:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert issubclass(WorkerError, LmlabError)


# ---- a cluster


@pytest.fixture
def scheduler(here: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler of Dask's and two workers, each a process of its own."""
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    python = [sys.executable, "-m"]
    about = here / "scheduler.json"
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([*python, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        file = f"--scheduler-file={about}"
        start("distributed.cli.dask_scheduler", file, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        once = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
        workers = [start("distributed.cli.dask_worker", file, "--host", "127.0.0.1", *once) for _ in range(2)]
        deadline = time.monotonic() + 60
        while not about.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield json.loads(about.read_text())["address"], workers


def test_a_cluster_that_loses_a_worker(scheduler: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed with -9 while it counts; Dask gives its shards to the other."""
    from distributed import Client

    address, workers = scheduler
    with Client(address) as client:
        client.wait_for_workers(2, timeout=60)
        Path("text.txt").write_text(TEXT * 50, encoding="utf-8")
        expected = estimate("text.txt", out="one")
        threading.Timer(0.3, workers[0].kill).start()
        run = estimate("text.txt", out="many", shards=20, executor=client.get_executor(pure=False))
        same(run, expected)
    words = ["ngram", "estimate", "text.txt", "--order", "3", "--shards", "3", "--cluster", address, "-o", "by-verb"]
    assert main([*words, "--quiet"]) == 0
    same(Path("by-verb"), expected, "config.json")


def test_a_cluster_that_is_not_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    monkeypatch.setattr(sharding, "_ANSWERS", "1 s")
    with pytest.raises(WorkerError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .*: start one"):
        sharding.dask("tcp://127.0.0.1:9").__enter__()


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(errors.MissingExtraError, match=r"lmlab\[dask\]"):
        sharding.dask("tcp://127.0.0.1:9").__enter__()
