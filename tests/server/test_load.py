"""Several clients at once, clients that go away, more than can wait, and models that make room for one another."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lmlab.decoding import Greedy, decode_all
from lmlab.models.toy import Uniform


@pytest.fixture
def worker() -> Iterator[Any]:
    from lmlab.server.worker import Worker

    worker = Worker(Uniform(8), most=4, rows=4, seconds=20)
    yield worker
    worker.end()


def test_answers_leave_at_once_on_a_connection_that_is_kept() -> None:
    from lmlab.cli.serve import _listening

    listening = _listening("127.0.0.1", 0)
    with listening, socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_many_clients_get_the_librarys_texts(client: Any, library: Any) -> None:
    asked = [{"prompt": "a dog "[: number % 6 + 1], "seed": number, "max_tokens": 5 + number} for number in range(12)]
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = client.post("/v1/completions", json={"model": "lstm", "n": 2, **asked[number]}).json()

    threads = [threading.Thread(target=ask, args=[number]) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, each in enumerate(asked):
        expected = library["lstm"].generate(n=2, **each)
        assert [choice["text"] for choice in answers[number]["choices"]] == [one.text for one in expected]


def test_turns_are_taken_by_all(worker: Any) -> None:
    order: list[str] = []

    def work(name: str, turns: int) -> Iterator[None]:
        for _ in range(turns):
            order.append(name)
            yield None

    async def both() -> None:
        gate = threading.Event()
        held = asyncio.create_task(worker.call(gate.wait))  # so that both begin together
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(worker.last(lambda name=name: work(name, 3))) for name in "ab"]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(held, *tasks)

    asyncio.run(both())
    assert "".join(order) == "ababab"


def test_more_than_can_wait_is_refused_and_who_leaves_makes_room(worker: Any) -> None:
    from lmlab.server.worker import BusyError

    async def crowd() -> None:
        gate = threading.Event()
        tasks = [asyncio.create_task(worker.call(gate.wait)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="4 requests are at work or wait"):
            await worker.call(lambda: 1)
        left = tasks.pop()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        later = asyncio.create_task(worker.call(lambda: 1))
        await asyncio.sleep(0)
        gate.set()
        assert await later == 1
        await asyncio.gather(*tasks)

    asyncio.run(crowd())
    assert worker.asked == 0


def test_what_nobody_waits_for_ends(worker: Any) -> None:
    ended = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    async def leave() -> None:
        turns = worker.turns(endless)
        assert set(await anext(turns)) == {1}
        await turns.aclose()
        await worker.call(lambda: None)

    asyncio.run(leave())
    assert ended.wait(20)


def test_what_came_meanwhile_comes_at_once_and_whole(worker: Any) -> None:
    async def take() -> list[list[int]]:
        blocks = []
        async for values in worker.turns(lambda: iter(range(1000))):
            blocks.append(values)
            time.sleep(0.001)  # telling takes longer than finding
        return blocks

    blocks = asyncio.run(take())
    assert [value for values in blocks for value in values] == [*range(1000)]
    assert len(blocks) < 500


def test_an_answer_that_is_whole_is_not_kept_with_the_tokens_of_streams(worker: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lmlab.server.worker._WORK_PER_TELLING", 1e12)  # tokens are kept for good
    monkeypatch.setattr("lmlab.server.worker._LONGEST_HOLD", 60.0)
    answered, late = threading.Event(), time.monotonic() + 15

    def tokens() -> Iterator[int]:
        while not answered.is_set() and time.monotonic() < late:
            time.sleep(0.001)
            yield 1

    async def both() -> None:
        streaming = asyncio.create_task(worker.last(tokens))
        await asyncio.sleep(0.05)
        assert await worker.call(lambda: 5) == 5
        assert not streaming.done()
        answered.set()
        await streaming

    asyncio.run(both())


def test_texts_share_the_batch(worker: Any) -> None:
    async def texts() -> Any:
        def begin(length: int) -> Any:
            return decode_all(Uniform(8), [[4]], Greedy(), max_tokens=length, batch=worker.batch)

        return await asyncio.gather(*(worker.last(lambda length=length: begin(length)) for length in (3, 1, 5, 2)))

    found = asyncio.run(texts())
    assert [step[0].best[0].length for step in found] == [3, 1, 5, 2]


def test_too_long_is_told() -> None:
    from lmlab.server.worker import TooLongError, Worker

    worker = Worker(Uniform(8), most=4, rows=4, seconds=0.05)
    with pytest.raises(TooLongError, match=r"longer than 0\.05 s"):
        asyncio.run(worker.last(lambda: iter(lambda: time.sleep(0.01), 1)))
    worker.end()


def test_models_make_room(runs: Any) -> None:
    from lmlab.server.bounds import Bounds
    from lmlab.server.house import House, entries_of

    house = House(entries_of([str(runs / "kn3"), str(runs / "lstm"), str(runs / "kn3")]), Bounds(loaded=2))

    async def use() -> list[list[str]]:
        seen = []
        for id in ("kn3", "lstm", "kn3", "kn3-2", "lstm"):
            async with house.using(id):
                seen.append([each.id for each in house.entries.values() if each.served])
        return seen

    assert asyncio.run(use()) == [["kn3"], ["kn3", "lstm"], ["kn3", "lstm"], ["kn3", "kn3-2"], ["lstm", "kn3-2"]]
    house.end()


def test_a_model_is_built_in_a_thread_that_ends(runs: Any, monkeypatch: Any) -> None:
    """Else that thread's team of OpenMP threads waits on, and the worker's has to sleep between operations."""
    from lmlab.facade.text_model import TextModel
    from lmlab.models.neural.rnn import LSTM
    from lmlab.server.bounds import Bounds
    from lmlab.server.house import House, entries_of

    threads: dict[str, threading.Thread] = {}

    def noted(what: str, function: Any) -> Any:
        def called(*given: Any, **named: Any) -> Any:
            threads[what] = threading.current_thread()
            return function(*given, **named)

        return called

    house = House(entries_of([str(runs / "lstm")]), Bounds())
    monkeypatch.setattr(TextModel, "load", noted("read", TextModel.load))
    monkeypatch.setattr(LSTM, "of", noted("built", LSTM.of))

    async def use() -> None:
        async with house.using("lstm") as served:
            await served.worker.call(lambda: served.lm.evaluate(["a dog"]))

    asyncio.run(use())
    house.end()
    assert set(threads) == {"read", "built"}
    for thread in threads.values():
        assert thread is not threading.main_thread()
        thread.join(20)
        assert not thread.is_alive()


@asynccontextmanager
async def gone_after(messages: int) -> AsyncIterator[Any]:
    """A client that sends its request, takes so many messages, and goes away."""
    sent: list[Any] = []
    enough = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) >= messages:
            enough.set()
            await asyncio.sleep(0)

    yield sent, send, enough


@pytest.mark.parametrize(("stream", "messages"), [(True, 3), (False, 0)])
def test_a_client_that_goes_away_is_worked_for_no_more(house: Any, stream: bool, messages: int) -> None:
    from lmlab.server.app import make_app

    async def go() -> None:
        app = make_app(house)
        body = json_of(model="lstm", prompt="a", max_tokens=4000, n=8, logit_bias={"3": -100}, stream=stream)
        async with gone_after(messages) as (_, send, enough):
            asked = [{"type": "http.request", "body": body}]

            async def receive() -> Any:
                if asked:
                    return asked.pop()
                if messages:
                    await enough.wait()
                return {"type": "http.disconnect"}

            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
            scope |= {"query_string": b"", "http_version": "1.1", "asgi": {"spec_version": "2.3"}}
            await asyncio.wait_for(app(scope, receive, send), 30)
        served = house.entries["lstm"].served
        assert served.worker.asked == 0

    asyncio.run(go())


def test_a_stream_that_waits_ends_when_its_client_goes_away() -> None:
    from lmlab.server.app import streamed

    left: list[str] = []

    async def events() -> AsyncIterator[Any]:
        try:
            yield {"text": "a"}
            yield {"text": "b"}
            await asyncio.Event().wait()  # for tokens that do not come
        finally:
            left.append("closed")

    async def go() -> None:
        async with gone_after(3) as (sent, send, enough):

            async def receive() -> Any:
                await enough.wait()
                return {"type": "http.disconnect"}

            await asyncio.wait_for((await streamed(events()))({"type": "http"}, receive, send), 30)
            assert [message["type"] for message in sent] == ["http.response.start", *["http.response.body"] * 2]

    asyncio.run(go())
    assert left == ["closed"]


def test_a_client_that_reads_no_more_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmlab.server import app

    monkeypatch.setattr(app, "_READ_SECONDS", 0.05)
    left: list[str] = []

    async def events() -> AsyncIterator[Any]:
        try:
            for number in range(1000):
                yield {"text": number}
        finally:
            left.append("closed")

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        await (never() if message["type"] == "http.response.body" else asyncio.sleep(0))

    async def go() -> None:
        await asyncio.wait_for((await app.streamed(events()))({"type": "http"}, never, send), 30)

    asyncio.run(go())
    assert left == ["closed"]


def json_of(**asked: Any) -> bytes:
    import json

    return json.dumps(asked).encode()


@pytest.mark.slow
def test_a_thousand_requests_a_signal_among_them() -> None:
    from tests.server import soak

    words = [sys.executable, "-m", soak.__name__, "--requests", "1000"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
