"""How quick is the page? First paint, keys and a stream in Chromium: the tables of `serving.py --page`."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from common import short, table

OPENED, KEYS, PACE, STREAMED = 7, 60, 60, 1200  # times, keys, tokens a second, tokens
PROTOCOL = f"""\
Protocol: headless Chromium on the same machine, 1280 x 900. First paint (`performance.getEntriesByType('paint')`) and
the first answer, the bars of the first token, since the navigation began: medians of {OPENED}, each in a browser
context of its own, nothing cached. Keys: {KEYS} of them, eight a second;
from the key's event to the first frame that is painted after the bars, or the colours, of the text with it stand;
"beside" are clients that stream texts of 256 tokens from the same model all the while. Stream: {STREAMED} tokens, as
the model writes them (it may end sooner), or held to {PACE} a second; a long task takes the page's thread 50 ms;
frames are due each 1/60 s, late ones came a frame or more after that."""

_WATCH = """() => {
  const bars = document.querySelector('aside [aria-busy]'), seen = (window.seen = { keys: [], bars: [], colours: [] });
  const painted = (list) => requestAnimationFrame(() => setTimeout(() => list.push(performance.now())));
  document.querySelector('.editor').addEventListener('keydown', (event) => seen.keys.push(event.timeStamp));
  new MutationObserver(() => bars.getAttribute('aria-busy') === 'false' && painted(seen.bars))
    .observe(bars, { attributes: true, attributeFilter: ['aria-busy'] });
  new MutationObserver(() => painted(seen.colours)).observe(document.querySelector('.figures'), { childList: true });
}"""
_FRAMES = """() => {
  const seen = (window.seen = { frames: [], tasks: [] });
  const frame = (now) => { seen.frames.push(now); requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
  new PerformanceObserver((list) => seen.tasks.push(...list.getEntries().map((one) => one.duration)))
    .observe({ entryTypes: ['longtask'] });
}"""


def tables(address: str, names: Sequence[str], runs: Sequence[str]) -> str:
    """All tables of the page, in markdown."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        opened = [first_paint(browser, address, name) for name in names]
        typed = [keys(browser, address, name, clients) for name in names for clients in (0, 8)]
        streams = [streamed(browser, address, name, name) for name in names]
        with paced(runs[0]) as slow:
            streams.append(streamed(browser, slow, "paced", f"{names[0]}, {PACE} a second"))
        browser.close()
    return "\n\n".join(
        [
            table(["model", "first paint, ms", "longest", "first answer", "longest"], opened),
            table(["a key, ms", "bars p50", "p95", "colours p50", "p95"], typed),
            table(STREAM, streams),
            PROTOCOL,
        ]
    )


STREAM = ["stream", "tokens/s shown", "long tasks", "frames", "late", "p95, ms", "the page's thread at work"]


def _write(page: Any, address: str, **params: Any) -> None:
    page.goto(f"{address}#write?{urlencode({'live': 'false', **params})}")
    page.locator(".bar").first.wait_for()


def first_paint(browser: Any, address: str, name: str) -> list[str]:
    """Milliseconds to the first paint and to the first answer."""
    paints, answers = [], []
    for _ in range(OPENED):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(
            "new MutationObserver(() => (window.answered ??= document.querySelector('.bar') && performance.now()))"
            ".observe(document, { childList: true, subtree: true })"
        )
        _write(page, address, model=name, text="to be")
        page.wait_for_function("performance.getEntriesByType('paint').length && window.answered")
        paints.append(page.evaluate("performance.getEntriesByType('paint')[0].startTime"))
        answers.append(page.evaluate("window.answered"))
        page.close()
    return [name, *(short(part(times)) for times in (paints, answers) for part in (statistics.median, max))]


def keys(browser: Any, address: str, name: str, clients: int) -> list[str]:
    """Milliseconds from a key to its answer."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    _write(page, address, model=name, text="to be")
    page.get_by_label("Text", exact=True).focus()
    page.evaluate(_WATCH)
    with load(address, name, clients):
        for letter in ("or not to be, that is the question " * KEYS)[:KEYS]:
            page.keyboard.type(letter)
            time.sleep(1 / 8)
        page.wait_for_timeout(1000)
    seen = page.evaluate("window.seen")
    page.close()
    row = [f"{name}, {clients} clients beside" if clients else name]
    for answers in (seen["bars"], seen["colours"]):
        times = [min((at for at in answers if at > key), default=float("inf")) - key for key in seen["keys"]]
        row += [short(statistics.median(times)), short(sorted(times)[int(0.95 * (len(times) - 1))])]
    return row


@contextlib.contextmanager
def load(address: str, name: str, clients: int) -> Iterator[None]:
    """So many clients that stream one text after the other."""
    from serving import stream

    ended = threading.Event()

    async def client(seed: int) -> None:
        while not ended.is_set():
            await stream(address, {"model": name, "prompt": "to be", "max_tokens": 256, "seed": seed})
            seed += clients

    async def together() -> None:
        await asyncio.gather(*map(client, range(clients)))

    thread = threading.Thread(target=lambda: asyncio.run(together()))
    thread.start()
    yield
    ended.set()
    thread.join()


def streamed(browser: Any, address: str, name: str, title: str) -> list[str]:
    """How smoothly a continuation is shown."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")
    _write(page, address, model=name, text="to be", tokens=STREAMED, seed=1, chain="temperature=1")

    def busy() -> float:
        return {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

    page.evaluate(_FRAMES)
    before, began = busy(), time.perf_counter()
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_role("button", name="Continue").wait_for(timeout=120_000)
    took, work = time.perf_counter() - began, busy() - before
    seen, shown = page.evaluate("window.seen"), len(page.get_by_label("Text", exact=True).input_value()) - 5
    page.close()
    gaps = [b - a for a, b in zip(seen["frames"], seen["frames"][1:], strict=False)]
    late, longest = sum(gap > 2000 / 60 - 1 for gap in gaps), short(sorted(gaps)[int(0.95 * (len(gaps) - 1))])
    tasks = f"{len(seen['tasks'])}, {short(max(seen['tasks'], default=0))} ms at most"
    return [title, short(shown / took), tasks, str(len(gaps)), str(late), longest, f"{100 * work / took:.0f} %"]


class _Paced:
    """A model that takes its time for each token."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.vocab_size, self.bos, self.eos = model.vocab_size, model.bos, model.eos
        self.start, self._due = model.start, 0.0

    def step(self, state: Any, tokens_B: Any) -> Any:
        """One token further, after a while."""
        self._due = max(self._due + 1 / PACE, time.perf_counter())
        time.sleep(max(0.0, self._due - time.perf_counter()))
        return self._model.step(state, tokens_B)


@contextlib.contextmanager
def paced(run: str) -> Iterator[str]:
    """The address of a server, in this process, of a run held to so many tokens a second."""
    import uvicorn

    import lmlab
    from common import Endless
    from lmlab.cli.serve import _listening
    from lmlab.server.app import make_app
    from lmlab.server.bounds import Bounds
    from lmlab.server.house import Entry, House, entries_of

    lm = lmlab.load(run)
    lm.model = _Paced(Endless(lm.model))  # type: ignore[assignment]
    app = make_app(House([Entry("paced", lambda: lm, entries_of([run])[0].told)], Bounds()))
    server, listening = uvicorn.Server(uvicorn.Config(app, log_level="warning", http="h11")), _listening("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    listening.close()
