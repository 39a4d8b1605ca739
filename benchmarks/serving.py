"""What does HTTP cost? Clients of `lmlab serve` beside the same texts grown by the library, and beside other servers.

python benchmarks/serving.py [--run DIR] [--tokens 16 128] [--clients 1 8 64] [--peer NAME=http://HOST:PORT,MODEL]
python benchmarks/serving.py --page [--run DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lmlab
from common import machine, short, table
from lmlab.decoding import Batch, decode_all, finish_all, strategy_of
from lmlab.decoding.processors import logit_bias
from lmlab.facade.surprisal import in_hand
from lmlab.scoring import evaluate
from lmlab.tokens.id_store import TokenStore

SCORED, KEYS, TIMES = 20_000, 200, 5  # characters, requests, rounds of scoring
PROTOCOL = """\
Protocol: {load}. Loopback. The clients are one process of one thread, held on the last core; servers and library may
use all. Each client streams one completion, temperature 1, `<eos>` barred, all begun at once. Medians of {times}
rounds, in each of which library, server and floor take their turns; overhead is the median of the rounds' ratios.
"Library" grows as many texts in one batch by the same processors. "Floor" is a server (uvicorn, no framework) that
computes nothing and sends one constant event a token. Milliseconds: to the first event of a client, and between two
events of one, median and 95th percentile; tokens an event; microseconds of a processor a token: of the library, the
server (the library in it too), and the clients.
Scoring: {scored:,} characters as one prompt with `echo` and max_tokens 0 beside `evaluate` of the same text, encoding
included; what the client takes to parse the answer (standard library) stands by itself.
Keys: {keys} requests one after the other on one connection, each a character longer, top 10, as the page sends them;
`/health` does nothing, so that it tells what the machine and the connection take."""


class Arrived:
    """What one client saw: seconds from the request to each event, and when the answer ended."""

    def __init__(self) -> None:
        self.began, self.events, self.end = time.perf_counter(), list[float](), 0.0


async def stream(address: str, asked: dict[str, Any]) -> Arrived:
    """Ask for a streamed text and read it."""
    arrived, at = Arrived(), urlsplit(address)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.write(request(asked | {"stream": True}))
    tail = b""
    while block := await reader.read(1 << 16):
        now = time.perf_counter() - arrived.began
        tail += block
        *lines, tail = tail.split(b"\n")
        events = [line for line in lines if line.startswith(b"data: {")]
        assert not any(b'"error"' in line for line in events), events
        arrived.events += [now] * len(events)
    arrived.end = time.perf_counter() - arrived.began
    writer.close()
    assert arrived.events, tail
    return arrived


def request(asked: dict[str, Any]) -> bytes:
    """A completion as a client writes it."""
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body


def served(address: str, asked: dict[str, Any], clients: int) -> tuple[float, list[Arrived]]:
    """How long all clients together took, and what each saw."""

    async def together() -> list[Arrived]:
        return await asyncio.gather(*(stream(address, asked | {"seed": seed}) for seed in range(clients)))

    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(every)})
    try:
        arrived = asyncio.run(together())
    finally:
        os.sched_setaffinity(0, every)
    return max(each.end for each in arrived), arrived


def alone(lm: Any, asked: dict[str, Any], clients: int) -> float:
    """Seconds of the library for as many texts in one batch."""
    made = strategy_of("sample", logit_bias((lm.model.eos,), -1e9), temperature=asked["temperature"])
    ids, options = lm.ids(asked["prompt"]), {"max_tokens": asked["max_tokens"], "forbidden": (1,)}
    began = time.perf_counter()
    finish_all(decode_all(lm.model, [ids] * clients, made, **options, batch=Batch(lm.model)))
    return time.perf_counter() - began


async def floor(scope: Any, receive: Any, send: Any) -> None:
    """A server that computes nothing: one constant event for each token that is asked for."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    choice = {"index": 0, "text": "a", "logprobs": None, "finish_reason": None}
    head = {"id": "cmpl-0", "created": 0, "model": "floor", "object": "text_completion"}
    event = f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(json.loads(body)["max_tokens"]):
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


@contextlib.contextmanager
def process(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address, which it tells as JSON."""
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            if not (line := server.stdout.readline()):
                raise SystemExit("the server did not start")
            told += line
        try:
            yield server, json.loads(told)["address"]
        finally:
            server.terminate()


def serve_floor() -> None:
    """Run the floor."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(json.dumps({"address": f"http://127.0.0.1:{listening.getsockname()[1]}/"}), flush=True)
    uvicorn.Server(uvicorn.Config(floor, log_level="warning", http="h11")).run(sockets=[listening])


def processor_seconds(server: subprocess.Popen[str]) -> float:
    """What a process has taken of the processors."""
    fields = Path(f"/proc/{server.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def late(values: list[float]) -> float:
    """The 95th percentile."""
    return sorted(values)[int(0.95 * (len(values) - 1))]


def timed(work: Callable[[], Any]) -> float:
    """Seconds of some work."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def load_row(
    name: str, lm: Any, asked: dict[str, Any], clients: int, server: Any, address: str, bare: str, times: int
) -> list[str]:
    """Library, server and floor in turns."""
    count, seen, rounds, cpus = clients * asked["max_tokens"], list[Arrived](), [], []
    alone(lm, asked, clients)
    served(address, asked, clients)
    for _ in range(times):
        marks = [(time.process_time(), processor_seconds(server))]
        library = alone(lm, asked, clients)
        marks.append((time.process_time(), processor_seconds(server)))
        took, arrived = served(address, asked, clients)
        marks.append((time.process_time(), processor_seconds(server)))
        seen += arrived
        rounds.append((library, took, served(bare, asked, clients)[0]))
        cpus.append((marks[1][0] - marks[0][0], marks[2][1] - marks[1][1], marks[2][0] - marks[1][0]))
    rates = [short(count / statistics.median(took)) for took in zip(*rounds, strict=True)]
    over, share = (100 * statistics.median(each[at] / each[0] for each in rounds) for at in (1, 2))
    cost = [f"{1e6 * statistics.fmean(each) / count:.0f}" for each in zip(*cpus, strict=True)]
    title = f"{name}, {clients} clients, {asked['max_tokens']} tokens"
    return [
        title,
        rates[0],
        rates[1],
        f"{over - 100:.0f} %",
        rates[2],
        f"{share:.0f} %",
        *moments(seen, count * times),
        *cost,
    ]


def moments(seen: list[Arrived], tokens: int) -> list[str]:
    """Milliseconds to the first event and between events, and tokens an event."""
    firsts = [1000 * each.events[0] for each in seen]
    between = [1000 * (b - a) for each in seen for a, b in pairwise(each.events)] or [0.0]
    events = sum(len(each.events) for each in seen)
    return [*(short(part(v)) for v in (firsts, between) for part in (statistics.median, late)), short(tokens / events)]


def scoring(address: str, lm: Any, name: str, text: str) -> list[list[str]]:
    """Characters/s scored by the library and through `echo`."""

    async def posted(asked: dict[str, Any]) -> bytes:
        at = urlsplit(address)
        reader, writer = await asyncio.open_connection(at.hostname, at.port, limit=1 << 20)
        writer.write(request(asked))
        answer = await reader.read(-1)
        writer.close()
        return answer.partition(b"\r\n\r\n")[2]

    def library() -> None:
        evaluate(lm.model, TokenStore.from_documents(lm.tokenizer, in_hand(text)[3]))

    asked, answers = {"model": name, "echo": True, "max_tokens": 0}, dict[str, bytes]()
    ways: dict[str, dict[str, Any]] = {
        f"{kind}, logprobs {top}": {**asked, "prompt": prompt, "logprobs": top}
        for kind, prompt in (("text", text), ("ids", lm.ids(text)))
        for top in (0, 1)
    }
    took: dict[str, list[float]] = {way: [] for way in ("library", *ways)}
    for _ in range(TIMES + 1):
        took["library"].append(timed(library))
        for way, body in ways.items():
            began = time.perf_counter()
            answers[way] = asyncio.run(posted(body))
            took[way].append(time.perf_counter() - began)
    rows = []
    for way, times in took.items():
        ratio = statistics.median(a / b for a, b in zip(times[1:], took["library"][1:], strict=True))
        parsed = short(1e6 * timed(lambda way=way: json.loads(answers[way])) / len(text)) if way in answers else ""
        size = short(len(answers[way]) / len(text)) if way in answers else ""
        rows.append([name, way, short(len(text) / statistics.median(times[1:])), f"{ratio:.2f}", size, parsed])
    return rows


def keys(address: str, name: str, text: str) -> list[list[str]]:
    """Milliseconds of what the page asks at a key, p50 and p95."""
    at, rows = urlsplit(address), []
    asked = ("/health", "", {}), ("/next", "prompt", {"top": 10}), ("/score", "text", {"alternatives": 0})
    for path, field, more in asked:
        connection = http.client.HTTPConnection(at.hostname or "", at.port)
        times = []
        for length in range(1, KEYS + 1):
            body = json.dumps({"model": name, field: text[:length], **more})
            began = time.perf_counter()
            connection.request("POST" if field else "GET", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            times.append(1000 * (time.perf_counter() - began))
            assert answer.status == 200
        rows.append([name, path, short(statistics.median(times)), short(late(times)), short(max(times[1:]))])
    return rows


def peer_row(told: str, asked: dict[str, Any], clients: int) -> list[str]:
    """The same load on another server, NAME=ADDRESS,MODEL."""
    name, _, rest = told.partition("=")
    address, _, model = rest.partition(",")
    count, asked = clients * asked["max_tokens"], asked | {"model": model}
    served(address, asked | {"max_tokens": 2}, 1)
    took, seen = served(address, asked, clients)
    title = f"{name}, {clients} clients, {asked['max_tokens']} tokens"
    return [title, "", short(count / took), "", "", "", *moments(seen, count), "", "", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", action="append", help="a model directory or hf:PATH; two are trained where none is named"
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--peer", action="append", default=[], help="another server: NAME=http://HOST:PORT,MODEL")
    parser.add_argument("--rounds", type=int, default=5, help="of the load")
    parser.add_argument("--only-load", action="store_true", help="neither scoring nor keys")
    parser.add_argument("--page", action="store_true", help="the page in Chromium alone: paint, keys, a stream")
    parser.add_argument("--floor", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.floor:
        serve_floor()
        return
    with tempfile.TemporaryDirectory() as folder:
        runs = options.run or []
        for name, more in () if runs else (("ngram", {"order": 6}), ("lstm", {"steps": 20, "hidden": 512})):
            lmlab.train(text=TEXT, model=name, tokenizer="char", out=f"{folder}/{name}", **more)
            runs.append(f"{folder}/{name}")
        words = "-m", "lmlab", "serve", *runs, "--port", "0", "--json"
        with process(*words) as (server, address), process(__file__, "--floor") as (_, bare):
            if options.page:
                import page

                names = [run.rstrip("/").rpartition("/")[2] for run in runs]
                print(page.tables(address, names, runs))
                print(machine())
                return
            report(server, address, bare, runs, TEXT[:SCORED], options)


TEXT = "to be or not to be, that is the question: whether 'tis nobler in the mind to suffer\n" * 400


def report(server: Any, address: str, bare: str, runs: list[str], text: str, options: argparse.Namespace) -> None:
    """Print the tables."""
    rows, scored, typed = [], [], []
    for run in runs:
        lm, name = lmlab.load(run), run.rstrip("/").rpartition("/")[2]
        asked: dict[str, Any] = {"model": name, "prompt": "to be", "temperature": 1}
        asked["logit_bias"] = {str(lm.model.eos): -1e9}
        for tokens in options.tokens:
            some = asked | {"max_tokens": tokens}
            rows += [
                load_row(name, lm, some, clients, server, address, bare, options.rounds) for clients in options.clients
            ]
        if not options.only_load:
            scored += scoring(address, lm, name, text)
            typed += keys(address, name, text)
    plain = {"prompt": "to be", "temperature": 1, "max_tokens": options.tokens[0]}
    rows += [peer_row(told, plain, clients) for told in options.peer for clients in options.clients]
    print(table(HEAD, rows))
    if scored:
        head = [
            "model",
            "prompt",
            "characters/s",
            "times the library's time",
            "bytes a character",
            "client parses, µs each",
        ]
        print("\n" + table(head, scored))
        print("\n" + table(["model", "route", "p50, ms", "p95", "longest but the first"], typed))
    load = f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores at the end"
    print("\n" + PROTOCOL.format(load=load, times=options.rounds, scored=len(text), keys=KEYS))
    print(machine())


HEAD = [
    "",
    "library tokens/s",
    "served",
    "overhead",
    "floor",
    "floor's time of the library's",
    "first p50",
    "p95",
    "between p50",
    "p95",
    "tokens an event",
    "library, µs of a processor a token",
    "server",
    "clients",
]

if __name__ == "__main__":
    main()
