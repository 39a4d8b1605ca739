"""Clients that others wrote, against a server that listens."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest


def test_openai(address: str, library: Any) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        assert {model.id for model in client.models.list()} == {"kn3", "lstm", "gpt2", "lstm+kn3"}
        assert client.models.retrieve("lstm+kn3").id == "lstm+kn3"
        asked = {"model": "lstm", "prompt": "a dog", "max_tokens": 8, "seed": 3, "temperature": 0.9}
        whole = client.completions.create(**asked, logprobs=2, extra_body={"top_k": 9})
        expected = library["lstm"].generate("a dog", max_tokens=8, seed=3, temperature=0.9, top_k=9)
        assert whole.choices[0].text == expected[0].text
        assert sum(whole.choices[0].logprobs.token_logprobs) == pytest.approx(expected[0].logp, rel=1e-6)
        streamed = client.completions.create(**asked, stream=True, extra_body={"top_k": 9})
        assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text
        turns = [{"role": "user", "content": "a dog"}]
        chat = client.chat.completions.create(model="lstm", messages=turns, max_tokens=5, logprobs=True, seed=1)
        stream = client.chat.completions.create(model="lstm", messages=turns, max_tokens=5, stream=True, seed=1)
        pieces = [chunk.choices[0].delta.content for chunk in stream]
        assert "".join(pieces) == chat.choices[0].message.content
        with pytest.raises(openai.NotFoundError, match="no model is called 'gpt5'"):
            client.completions.create(model="gpt5", prompt="")
        with pytest.raises(openai.BadRequestError, match="the prompt has 'Q'"):
            client.completions.create(model="lstm", prompt="Q")


def test_a_signal_lets_what_is_in_flight_finish(runs: Path) -> None:
    import httpx

    words = [sys.executable, "-m", "lmlab", "serve", str(runs / "kn3"), "--port", "0", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            told += process.stdout.readline().decode()
        address = json.loads(told)["address"]
        asked = {"model": "kn3", "max_tokens": 1500, "logit_bias": {"3": -100}, "stream": True}
        with httpx.stream("POST", f"{address}v1/completions", json=asked, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            events = [line.removeprefix("data: ") for line in lines if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert process.wait(30) == 0


def test_a_flood_of_headers_is_refused(address: str) -> None:
    where = urlsplit(address)
    for headers in (b"x: " + b"y" * 200_000, b"x: y\r\n" * 50_000):
        with socket.create_connection((where.hostname, where.port), timeout=30) as client:
            with contextlib.suppress(OSError):  # the server stops reading
                client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + headers)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1000)[:12] in (b"HTTP/1.1 400", b"")
    with urlopen(f"{address}/health") as answer:
        assert answer.status == 200


LLM = """
- model_id: lmlab-lstm
  model_name: lstm
  api_base: {address}/v1
  completion: true
"""


@pytest.mark.skipif(find_spec("llm") is None, reason="the llm command is not installed")
@pytest.mark.parametrize("stream", [True, False])
def test_llm(address: str, library: Any, tmp_path: Path, stream: bool) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(LLM.format(address=address), encoding="utf-8")
    words = [sys.executable, "-m", "llm", "-m", "lmlab-lstm", "a dog", "--no-log", *([] if stream else ["--no-stream"])]
    words += ["-o", "max_tokens", "8", "-o", "temperature", "0.9", "-o", "seed", "3"]
    path = os.pathsep.join(filter(None, sys.path))
    env = {**os.environ, "LLM_USER_PATH": str(tmp_path), "PYTHONPATH": path}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (expected,) = library["lstm"].generate("a dog", max_tokens=8, seed=3, temperature=0.9)
    assert done.stdout.removesuffix("\n") == expected.text.removesuffix("\n")
