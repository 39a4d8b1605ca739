"""Two of everything at once: both end well, or one says in a line that the other is at work; what comes is whole."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmlab.corpora.download import download
from lmlab.errors import LmlabError
from tests.soak.campaign import Case, drawn, empty
from tests.soak.kills import JOBS
from tests.soak.kills import PART as KILLS
from tests.soak.processes import Child, Ended, command

_WELL = "both end well"
_HELD = "one may be told that there is another"


RESUME = ["train", "--resume", "out", "--quiet", "--json"]
PAIRS: dict[str, tuple[tuple[str, str], tuple[str, str], str]] = {  # of each command the job and its output
    "two trainings, one fresh cache": (("lstm", "a"), ("lstm", "b"), _WELL),
    "two models, one fresh cache": (("cnn", "a"), ("transformer", "b"), _WELL),
    "two vocabularies, one fresh cache": (("encode", "a"), ("encode", "b"), _WELL),
    "one output, trained": (("lstm", "out"), ("lstm", "out"), _HELD),
    "one output, two models": (("cnn", "out"), ("encode", "out"), _HELD),
    "one run resumed twice": (("resume", "out"), ("resume", "out"), _HELD),
    "two estimates": (("estimate", "a"), ("estimate", "b"), _WELL),
    "one output, estimated": (("estimate", "out"), ("estimate", "out"), _HELD),
    "one output, imported": (("import", "out"), ("import", "out"), _HELD),
    "one output, pruned": (("prune", "out"), ("prune", "out"), _HELD),
    "one ARPA file": (("arpa", "out"), ("arpa", "out"), _WELL),
    "one file downloaded twice": (("", ""), ("", ""), _HELD),
}


class Pairs:
    """Two commands side by side, the second a moment later."""

    share, batch = 0.05, 1

    def prepare(self, folder: Path) -> None:
        """What the commands start from, and come to alone."""
        KILLS.prepare(folder)

    def counts(self) -> dict[str, int]:
        """Of each pair as many."""
        return dict.fromkeys(PAIRS, 14)

    def tried(self, name: str, numbers: range, seed: int, folder: Path) -> Iterator[Case]:
        """Start two, wait for both, look at what they left."""
        for number in numbers:
            began, draw = time.perf_counter(), drawn(seed, "pairs", name, number)
            home = empty(folder / "case")
            later = draw.choice((0.0, draw.uniform(0, 0.05), draw.uniform(0, 0.6)))
            wanted = PAIRS[name][2]
            ends, wrong = _downloaded(home, later) if "downloaded" in name else self._case(PAIRS[name][:2], later, home)
            for ended in ends:
                wrong = wrong or ended.wrong(quiet=False)
            codes = sorted(ended.code for ended in ends)
            if not wrong and (codes != [0, 0] if wanted is _WELL else codes[0] != 0):
                wrong = f"they end with {codes}: " + " ".join(ended.err for ended in ends)
            rss = max(ended.rss for ended in ends)
            yield Case(number, time.perf_counter() - began, rss, wrong.replace(str(home), ""))

    def _case(self, pair: Sequence[tuple[str, str]], later: float, home: Path) -> tuple[list[Ended], str]:
        jobs = [JOBS["lstm" if name == "resume" else name] for name, _ in pair]
        KILLS.begin(jobs[0], home)
        if pair[0][0] == "resume":
            command(jobs[0].words, home, before=KILLS.killed_late).end()
        children = []
        for job, (name, out) in zip(jobs, pair, strict=True):
            words = RESUME if name == "resume" else [out if word == "out" else word for word in job.words]
            children.append(command(words, home, before=KILLS.little(job, lambda: None)))
            time.sleep(later)
        ends, wrong = [child.end() for child in children], ""
        for job, (_, out), ended in zip(jobs, pair, ends, strict=True):
            if ended.code == 0 and KILLS.output(job, home / out) != job.end:
                wrong = "another result than alone"
        return ends, wrong


def _downloaded(home: Path, later: float) -> tuple[list[Ended], str]:
    """A local server, one file, two processes that want it."""
    content = os.urandom(1 << 20)

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            for at in range(start, len(content), 1 << 16):
                self.wfile.write(content[at : at + (1 << 16)])
                time.sleep(0.005)

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    url = f"http://127.0.0.1:{server.server_port}/file"
    sums = hashlib.sha256(content).hexdigest()

    def fetch() -> int:
        try:
            download([url], home / "file", sums, pause=0.01)
        except LmlabError as error:
            os.write(2, f"lmlab: {error}\n".encode())
            return 1
        return 0

    children = [Child(fetch, home)]
    thread.start()
    time.sleep(later)
    children.append(Child(fetch, home))
    ends = [child.end() for child in children]
    server.shutdown()
    server.server_close()
    whole = (home / "file").exists() and (home / "file").read_bytes() == content
    shutil.rmtree(home, ignore_errors=True)
    return ends, "" if whole else "the file is not whole"


PART = Pairs()
