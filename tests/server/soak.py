"""A long run against a server in a process of its own: one request in ten is broken off, malformed, slow or cancelled.

    python -m tests.server.soak --requests 10000 --minutes 30

Every sound answer is compared with the library's. Half way the server gets SIGTERM with requests in flight: those are
answered, and a server that is started again takes the rest. Prints a table; exits with 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lmlab
from tests.texts import TEXT, TINY

CLIENTS = 16
PROMPTS = ["", "a dog ", "the cat", "an owl sang", "naïve Zoë"]


class Server:
    """`lmlab serve` in a process."""

    def __init__(self, runs: list[Path]) -> None:
        words = [sys.executable, "-m", "lmlab", "serve", *map(str, runs), "--port", "0", "--json"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            told += self.process.stdout.readline()
        self.port = urlsplit(json.loads(told)["address"]).port

    def megabytes(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def library_answers(runs: list[Path]) -> dict[tuple[str, str], Any]:
    """Sound requests, (path, body), and what must be answered: the text, or the bits of a text."""
    known: dict[tuple[str, str], Any] = {}
    for run in runs:
        lm = lmlab.load(run)
        for number, prompt in enumerate(PROMPTS):
            for seed in range(8):
                asked = {"temperature": 0.8, "max_tokens": 4 + 3 * seed, "seed": seed, "n": 1 + number % 2}
                body = json.dumps({"model": run.name, "prompt": prompt, **asked, "stream": seed % 2 == 1})
                known["/v1/completions", body] = [each.text for each in lm.generate(prompt, **asked)]
            beam = {"strategy": "beam:width=3", "max_tokens": 9}
            body = json.dumps({"model": run.name, "prompt": prompt, **beam})
            known["/v1/completions", body] = [lm.generate(prompt, beam["strategy"], max_tokens=9)[0].text]
            body = json.dumps({"model": run.name, "text": f"{prompt}a dog"})
            known["/score", body] = lm.score(f"{prompt}a dog").total["total_nats"] / math.log(2)
    return known


async def ask(port: int, path: str, body: bytes, fault: str = "") -> bytes:
    """The answer to a request as it came, head and body; a fault breaks it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        length = len(body) + (50 if fault == "cut off" else 0)
        head = f"POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {length}\r\n\r\n".encode())
        if fault == "slow":
            for at in range(0, len(body), 20):
                writer.write(body[at : at + 20])
                await writer.drain()
                await asyncio.sleep(0.01)
        else:
            writer.write(body)
            await writer.drain()
        if fault == "cut off":
            return b""
        if fault == "cancelled":
            await asyncio.sleep(random.random() * 0.05)
            return b""
        return await asyncio.wait_for(reader.read(-1), 120)
    finally:
        writer.close()


def is_right(answer: bytes, path: str, expected: Any) -> bool:
    """Whether an answer says what the library says."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        return False
    if b"transfer-encoding: chunked" in head.lower():
        texts = [""] * len(expected)
        *events, end = [line[6:] for line in rest.decode().splitlines() if line.startswith("data: ")]
        for choice in (choice for event in events for choice in json.loads(event)["choices"]):
            texts[choice["index"]] += choice["text"]
        return end == "[DONE]" and texts == expected
    found = json.loads(rest)
    if path == "/score":
        return math.isclose(found["bits"], expected, rel_tol=1e-5)
    return [choice["text"] for choice in found["choices"]] == expected


async def client(
    server: Server, known: dict[tuple[str, str], Any], draw: random.Random, counts: Counter[str], pace: float
) -> None:
    """Asks, all clients one request in `pace` seconds, until nothing is left to ask or the server has gone."""
    keys = list(known)
    while counts["asked"] < counts["wanted"]:
        counts["asked"] += 1
        await asyncio.sleep(pace * CLIENTS * draw.uniform(0.5, 1.5))
        path, body = draw.choice(keys)
        fault = draw.choice(["malformed", "cut off", "slow", "cancelled"]) if draw.random() < 0.1 else ""
        try:
            if fault == "malformed":
                cut = body[: draw.randrange(len(body))].encode() + draw.randbytes(3)
                answer = await ask(server.port, path, cut)
                counts["refused" if b" 400 " in answer[:20] else "wrong"] += 1
                continue
            answer = await ask(server.port, path, body.encode(), fault)
        except (OSError, TimeoutError) as error:
            if server.process.poll() is None and not counts["ending"]:
                counts["lost"] += 1
                print(f"lost: {error!r}", file=sys.stderr)
            else:
                counts["asked"] -= 1  # asked after the end: again, of the next server
                return
            continue
        if fault in ("cut off", "cancelled"):
            counts[fault] += 1
        elif not answer and counts["ending"]:
            counts["asked"] -= 1  # connected but never taken: the listener was closing
            return
        else:
            counts["right" if is_right(answer, path, known[path, body]) else "wrong"] += 1


async def soak(runs: list[Path], requests: int, pace: float) -> Counter[str]:
    """Ask so much of two servers, one after the other."""
    known, counts, draw = library_answers(runs), Counter[str](), random.Random(0)
    memory: list[str] = []
    for half in (1, 2):
        server = Server(runs)
        counts["wanted"], counts["ending"] = requests if half == 2 else 10**9, 0
        began, tasks = (
            counts["asked"],
            [asyncio.create_task(client(server, known, draw, counts, pace)) for _ in range(CLIENTS)],
        )
        marks = [began + share * (requests // 2) // 4 for share in (1, 2, 3, 4)]
        for mark in marks:
            while counts["asked"] < mark and not all(task.done() for task in tasks):
                await asyncio.sleep(0.05)
            memory.append(f"{server.megabytes():.0f}")
        if half == 1:
            counts["ending"] = 1
            server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
        if half == 2:
            server.process.send_signal(signal.SIGTERM)
        ended = await asyncio.to_thread(server.process.wait, 150)
        counts["bad exits"] += ended != 0
    print(f"resident MB at each eighth of the requests: {', '.join(memory)}")
    return counts


def main() -> int:
    """Run it in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=0.0, help="spread over so long")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, runs = Path(name), []
        (folder / "poem.txt").write_text(TEXT, encoding="utf-8")
        for run, settings in {"kn3": {"model": "ngram", "order": 3}, "lstm": {"model": "lstm", **TINY}}.items():
            lmlab.train(folder / "poem.txt", tokenizer="char", out=folder / run, **settings)
            runs.append(folder / run)
        began = time.perf_counter()
        counts = asyncio.run(soak(runs, args.requests, 60 * args.minutes / args.requests))
    told = {name: count for name, count in counts.items() if name not in ("wanted", "ending")}
    print(f"{time.perf_counter() - began:.0f} s, {CLIENTS} clients: {told}")
    return int(bool(counts["wrong"] or counts["lost"] or counts["bad exits"]))


if __name__ == "__main__":
    sys.exit(main())
