"""Ray's workers as an executor: the model of one process from two nodes, whatever becomes of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

import lmlab
from lmlab import errors
from lmlab.cli import main
from lmlab.errors import WorkerError
from lmlab.facade import ray_tasks
from lmlab.progress import Silent
from tests.facade.test_shards import TEXT, same

PORT = 10_001  # Ray's own for its clients; workers take those above


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.MissingExtraError, match=r"lmlab\[ray\]"):
        ray_tasks.RayExecutor()
    with pytest.raises(errors.MissingExtraError, match=r"lmlab\[ray\]"):
        ray_tasks.connected("ray://127.0.0.1:9").__enter__()


class Nodes:
    """A head and another node, each of one core and 80 MB for objects, with 127.0.0.2 and .3 for their addresses."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.address = folder, f"ray://127.0.0.2:{PORT}"

    def start(self) -> None:
        """Start both."""
        head = ("--head", "--port=6399", f"--ray-client-server-port={PORT}", "--include-dashboard=false")
        self._start(*head, f"--temp-dir={self._folder}", "--node-ip-address=127.0.0.2")
        self._start("--address=127.0.0.2:6399", "--node-ip-address=127.0.0.3")

    def _start(self, *words: str) -> None:
        few = ("--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *few, *words]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    def processes(self, *names: str) -> list[int]:
        """Those of these nodes whose command line has all the names."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line, about = path.read_bytes(), (path.parent / "environ").read_bytes()
                if f"LMLAB_TEST_RAY={self._folder}".encode() in about and all(name.encode() in line for name in names):
                    found.append(int(path.parent.name))
        return [pid for pid in found if pid != os.getpid()]

    def kill(self, *names: str) -> None:
        """End them with -9."""
        for pid in self.processes(*names):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.chdir(tmp_path)
    short = f"{tempfile.gettempdir()}/lmlab-ray-{os.getpid()}"  # as sockets want it
    monkeypatch.setenv("LMLAB_TEST_RAY", short)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-no-worth-" * 3)
    pytest.importorskip("ray", reason="the extra ray is not installed")  # which reads these when it is imported
    Path("text.txt").write_text(TEXT * 50, encoding="utf-8")
    nodes = Nodes(Path(os.environ["LMLAB_TEST_RAY"]))
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.kill()
        shutil.rmtree(os.environ["LMLAB_TEST_RAY"], ignore_errors=True)


def estimate(out: str, **named: Any) -> Path:
    folder = lmlab.estimate("text.txt", out=out, order=3, reporter=Silent(), **named).folder
    assert folder is not None
    return folder


def _dies_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@pytest.mark.slow
def test_two_nodes_make_the_model_of_one_process_and_may_die(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    expected = estimate("one")
    words = ["ngram", "estimate", "text.txt", "--order", "3", "--shards", "3", "--cluster", nodes.address, "-o"]
    assert main([*words, "by-verb", "--quiet"]) == 0
    same(Path("by-verb"), expected, "config.json")
    with ray_tasks.connected(nodes.address) as executor:
        same(estimate("many", shards=6, executor=executor), expected)
        large = [executor.submit(bytes, 20_000_000) for _ in range(8)]  # twice what the store of objects holds
        assert {len(future.result()) for future in large} == {20_000_000}
        Path("marked.txt").write_text("a b\n" * 9 + "a <s> b\n")
        with pytest.raises(errors.DataError, match=r"^[^\n]*<s>[^\n]*$"):  # told in a worker, and one line here
            lmlab.estimate("marked.txt", out="no", shards=2, executor=executor, reporter=Silent())
        assert executor.submit(_dies_once, Path.cwd() / "mark").result() == "alive"
        with pytest.raises(BrokenExecutor, match="worker died"):
            ray_tasks.RayExecutor(max_retries=0).submit(os._exit, 1).result()
        begun = [executor.submit(time.sleep, 0.5) for _ in range(8)]
        nodes.kill("raylet", "127.0.0.3")  # what ran there runs again on the head
        assert [future.result() for future in begun] == [None] * 8
        same(estimate("after", shards=4, executor=executor), expected)
        capsys.readouterr()
        nodes.kill("gcs_server")
        nodes.kill("ray.util.client.server")
        with pytest.raises(WorkerError, match=r"^a worker or its scheduler was lost while counting"):
            estimate("headless", shards=4, executor=executor)
        assert not Path("headless").exists()
    with pytest.raises(WorkerError, match=r"no Ray answers at ray://127.0.0.2:10001 .*: start one: ray start --head"):
        ray_tasks.connected(nodes.address).__enter__()
