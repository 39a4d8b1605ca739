import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lmlab.corpora.download import download
from lmlab.disk import held
from lmlab.errors import DownloadError, HeldError

DATA = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves DATA at any path but /missing; `cut` breaks the first answer off; `ranges` tells what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.cut, self.honour, self.failures, self.data = [], 0, True, 0, DATA

    def url(self, path="/file"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.path == "/missing":
            return self.send_error(404)
        if self.server.failures:
            self.server.failures -= 1
            return self.send_error(503)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.honour else 0
        if start and start >= len(self.server.data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.server.data) - start))
        self.end_headers()
        cut, self.server.cut = self.server.cut, 0
        return self.wfile.write(self.server.data[start : cut or None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "file.bin"


def part_of(target):
    return target.with_name(target.name + ".part")


def test_a_whole_download_with_progress(server, target):
    told = []
    assert download([server.url()], target, SHA, progress=lambda *amounts: told.append(amounts)) == SHA
    assert target.read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("honour", [True, False])
def test_a_broken_connection_is_resumed(server, target, honour):
    server.cut, server.honour = 500_000, honour
    download([server.url()], target, SHA, pause=0)
    assert target.read_bytes() == DATA
    assert server.ranges == [None, "bytes=500000-"]


def test_what_an_interrupted_run_left_is_used(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(DATA[:1000])
    download([server.url()], target, SHA)
    assert (target.read_bytes(), server.ranges) == (DATA, ["bytes=1000-"])


@pytest.mark.parametrize("left", [b"other" * 100, DATA + b"more", DATA])
def test_a_leftover_that_does_not_fit_is_thrown_away(server, target, left):
    target.parent.mkdir()
    part_of(target).write_bytes(left)
    download([server.url()], target, SHA, pause=0)
    assert target.read_bytes() == DATA


def test_a_wrong_file_is_refused_and_leaves_nothing(server, target):
    with pytest.raises(DownloadError, match=f"has sha256 {SHA}, but {'0' * 64} is expected"):
        download([server.url()], target, "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_missing_is_told_at_once_and_the_next_address_tried(server, target):
    with pytest.raises(DownloadError, match=r"missing \(HTTP 404 Not Found\): try again .* by hand as"):
        download([server.url("/missing")], target, SHA, pause=60)
    assert download([server.url("/missing"), server.url()], target, SHA) == SHA


def test_a_passing_failure_is_tried_again(server, target):
    server.failures = 2
    assert download([server.url()], target, pause=0) == SHA
    server.failures = 9
    with pytest.raises(DownloadError, match="HTTP 503"):
        download([server.url()], target.with_name("other"), pause=0)


def test_a_server_that_is_not_there(target, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match="refused"):
        download(["http://127.0.0.1:9/file"], target, SHA, pause=0)


def test_one_process_at_a_time(server, target):
    with held(target), pytest.raises(HeldError, match=r"is in use by process \d+"):
        download([server.url()], target, SHA)
    assert download([server.url()], target, SHA) == SHA


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot be written"):
        download([server.url()], tmp_path / "file" / "a", SHA)
