"""The guide's files for nginx and systemd, as they stand there but for addresses: streams pass, under a folder too."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import lmlab

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

GUIDE = (Path(__file__).parents[2] / "docs" / "guide" / "server.md").read_text(encoding="utf-8")
NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


def block(language: str) -> str:
    """The guide's file in a language."""
    return re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)[1]  # type: ignore[index]


class Gated:
    """A model that reads no token before the gate opens."""

    def __init__(self, model: Any) -> None:
        self._model, self.gate = model, threading.Event()
        self.vocab_size, self.bos, self.eos, self.start = model.vocab_size, model.bos, model.eos, model.start

    def step(self, state: Any, tokens_B: Any) -> Any:
        """One token further."""
        assert self.gate.wait(60)
        return self._model.step(state, tokens_B)


@pytest.fixture(scope="module")
def gated(runs: Path) -> Iterator[tuple[str, Gated]]:
    """A server of kn3, and of the same behind a gate."""
    from lmlab.server.house import Entry, entries_of
    from tests.server.test_page import serving

    (entry,), lm = entries_of([str(runs / "kn3")]), lmlab.load(runs / "kn3")
    lm.model = Gated(lm.model)
    with serving([entry, Entry("gated", lambda: lm, entry.told)]) as address:
        yield address, lm.model


@contextmanager
def proxied(folder: Path, address: str, location: str = "/") -> Iterator[int]:
    """The port of nginx with the guide's file before a server."""
    if NGINX is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed")
    made = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        folder / "key.pem",
        "-out",
        folder / "cert.pem",
        "-subj",
        "/CN=x",
    ]
    subprocess.run(["openssl", "req", "-x509", "-days", "1", *made], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = block("nginx").replace("listen 443", f"listen 127.0.0.1:{port}")
    server = server.replace("/etc/ssl/models.pem", str(folder / "cert.pem"))
    server = server.replace("/etc/ssl/models.key", str(folder / "key.pem"))
    server = server.replace("http://127.0.0.1:8000", address + "/" * (location != "/"))
    server = server.replace("location / {", f"location {location} {{")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    frame = f"pid {folder}/pid; daemon off; events {{}} http {{ access_log off; {temporary}\n{server}}}"
    (folder / "nginx.conf").write_text(frame, encoding="utf-8")
    words = [NGINX, "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
    with subprocess.Popen(words) as nginx:
        try:
            while nginx.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.01)
            assert nginx.poll() is None, (folder / "error.log").read_text(encoding="utf-8")
            yield port
        finally:
            nginx.terminate()


def client_of(port: int) -> Any:
    """A client of a server whose certificate nobody signed."""
    return httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=30)


def test_a_stream_through_nginx_arrives_token_by_token(gated: Any, tmp_path: Path) -> None:
    address, model = gated
    body = {"model": "gated", "prompt": "the", "max_tokens": 9, "stream": True, "seed": 1}
    with (
        proxied(tmp_path, address) as port,
        client_of(port) as client,
        client.stream("POST", "/v1/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")  # while the model waits: nothing is held back
        model.gate.set()
        assert "data: [DONE]" in list(lines)


def test_nginx_passes_answers_and_refuses_what_is_too_large(gated: Any, tmp_path: Path) -> None:
    body = {"model": "kn3", "text": "the cat"}
    with proxied(tmp_path, gated[0]) as port, client_of(port) as client:
        assert client.post("/score", json=body).json() == httpx.post(f"{gated[0]}/score", json=body).json()
        assert client.post("/score", json={**body, "text": "a" * (9 << 20)}).status_code == 413
        assert client.post("/score", json={**body, "model": "none"}).status_code == 404


def test_the_page_works_under_a_folder_of_nginx(gated: Any, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("there is no /usr/bin/chromium")
    with proxied(tmp_path, gated[0], "/models/") as port, sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(ignore_https_errors=True)
        page.goto(f"https://127.0.0.1:{port}/models/#write?model=kn3&text=the+cat&live=false")
        page.locator(".bar").first.wait_for()
        page.locator(".figures", has_text="bits per byte").wait_for()
        assert page.request.get(f"https://127.0.0.1:{port}/models/docs").ok
        browser.close()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    executable = shutil.which("true")
    (tmp_path / "lmlab.service").write_text(block("ini").replace("/opt/lmlab/bin/lmlab", str(executable)))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "lmlab.service"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
