"""What does HTTP cost? Clients of `lmlab serve` beside the same texts grown by the library.

python benchmarks/serving.py [--run DIR] [--tokens 64] [--clients 1 8 64]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lmlab
from common import machine, short, table
from lmlab.decoding import Batch, decode_all, finish_all, strategy_of
from lmlab.facade.surprisal import in_hand
from lmlab.scoring import evaluate
from lmlab.tokens.id_store import TokenStore

SCORED = 20_000  # characters
PROTOCOL = """\
Protocol: {load}. Loopback, server and clients on the same cores, the clients in one process. Each client streams one
completion of {tokens} tokens, temperature 1, `<eos>` barred, all begun at once, after one like it that is not counted;
tokens are counted as they arrive. Beside it the library grows as many texts in one batch. Milliseconds: to the first
token of a client, and between two tokens of one, median and 95th percentile. Scoring: {scored:,} characters as one
prompt with `echo` and max_tokens 0, answer parsed, beside `evaluate` of the same text, encoding included."""


async def stream(port: int, asked: dict[str, Any]) -> list[float]:
    """When each piece of a streamed text arrived, in seconds from the request."""
    began, arrived = time.perf_counter(), []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(asked | {"stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
    async for line in reader:
        if line.startswith(b"data: {"):
            assert b'"error"' not in line, line
            arrived.append(time.perf_counter() - began)
    writer.close()
    return arrived


def served(port: int, asked: dict[str, Any], clients: int, tokens: int) -> list[str]:
    """Tokens/s in all, and milliseconds: to the first token and between tokens, p50 and p95."""

    async def together() -> list[list[float]]:
        return await asyncio.gather(*(stream(port, asked | {"seed": seed}) for seed in range(clients)))

    began = time.perf_counter()
    arrived = asyncio.run(together())
    rate = clients * tokens / (time.perf_counter() - began)
    firsts = [1000 * times[0] for times in arrived]
    between = [1000 * (b - a) for times in arrived for a, b in pairwise(times)] or [0.0, 0.0]
    return [f"{rate:.6g}", *(short(part(values)) for values in (firsts, between) for part in (statistics.median, late))]


def late(values: list[float]) -> float:
    """The 95th percentile."""
    return sorted(values)[int(0.95 * (len(values) - 1))]


def alone(lm: Any, asked: dict[str, Any], clients: int, tokens: int) -> float:
    """Tokens/s of the library in one batch of as many searches as there are clients."""
    made, ids = strategy_of("sample", temperature=asked["temperature"]), lm.ids(asked["prompt"])
    began, batch = time.perf_counter(), Batch(lm.model)
    finish_all(decode_all(lm.model, [ids] * clients, made, max_tokens=tokens, forbidden=(1, lm.model.eos), batch=batch))
    return clients * tokens / (time.perf_counter() - began)


async def posted(port: int, asked: dict[str, Any]) -> Any:
    """The parsed answer to a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
    answer = await reader.read(-1)
    writer.close()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def scoring(port: int, lm: Any, name: str, text: str) -> list[list[str]]:
    """Characters/s scored by the library and through `echo`."""

    def library() -> None:
        evaluate(lm.model, TokenStore.from_documents(lm.tokenizer, in_hand(text)[3]))

    asked = {"model": name, "prompt": text, "echo": True, "max_tokens": 0}
    ways = {"library": library}
    for top in (0, 1):
        ways[f"echo, logprobs {top}"] = lambda top=top: asyncio.run(posted(port, asked | {"logprobs": top}))
    rates = {}
    for way, work in ways.items():
        work()
        began = time.perf_counter()
        work()
        rates[way] = len(text) / (time.perf_counter() - began)
    return [[name, way, short(rate), f"{rates['library'] / rate:.2f}"] for way, rate in rates.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", type=Path, help="a model directory; made where none is named")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = "to be or not to be, that is the question: whether 'tis nobler in the mind to suffer\n" * 400
        runs = options.run or []
        for name, more in () if runs else (("ngram", {"order": 5}), ("lstm", {"steps": 20, "hidden": 128})):
            lmlab.train(text=text, model=name, tokenizer="char", out=f"{folder}/{name}", **more)
            runs.append(Path(folder, name))
        words = [sys.executable, "-m", "lmlab", "serve", *map(str, runs), "--port", "0", "--json"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            told = ""
            while not told.endswith("}\n"):
                told += server.stdout.readline()  # type: ignore[union-attr]
            port = urlsplit(json.loads(told)["address"]).port
            report(port, runs, text[:SCORED], options.tokens, options.clients)
            server.terminate()


def report(port: int, runs: list[Path], text: str, tokens: int, counts: list[int]) -> None:
    """Print the tables."""
    rows, scored = [], []
    for run in runs:
        lm = lmlab.load(run)
        asked = {"model": run.name, "prompt": "to be", "max_tokens": tokens, "temperature": 1}
        asked["logit_bias"] = {str(lm.model.eos): -1e9}
        for clients in counts:
            for _ in range(2):
                of_library = alone(lm, asked, clients, tokens)
                rate, *times = served(port, asked, clients, tokens)
            over = f"{100 * (of_library / float(rate) - 1):.0f} %"
            rows.append([f"{run.name}, {clients} clients", short(of_library), short(float(rate)), over, *times])
        scored += scoring(port, lm, run.name, text)
    head = ["", "library tokens/s", "served tokens/s", "overhead", "first p50", "p95", "between p50", "p95"]
    print(table(head, rows))
    print()
    print(table(["model", "way", "characters/s", "times the library's time"], scored))
    print()
    load = f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores at the end"
    print(PROTOCOL.format(load=load, tokens=tokens, scored=len(text)))
    print(machine())


if __name__ == "__main__":
    main()
