"""The routes: what arrives by HTTP, and how answers and errors leave. FastAPI is imported here alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from lmlab import __version__
from lmlab.errors import (
    ArtifactError,
    DataError,
    LmlabError,
    MissingExtraError,
    SettingError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from lmlab.server import answers, asking, description
from lmlab.server.door import Door, Metrics
from lmlab.server.house import House
from lmlab.server.worker import BusyError, TooLongError

PAGE = Path(__file__).parent / "page"
_OPEN = ("/health", "/docs", "/openapi.json")  # that need no key
_READ_SECONDS = 60.0  # that a client may leave an event unread once all buffers are full
_DONE = "data: [DONE]\n\n"
_log = logging.getLogger("lmlab.server")
T = TypeVar("T")


def make_app(house: House, *, key: str | None = None, origins: Sequence[str] = ()) -> FastAPI:
    """The server.

    Args:
        house: the models.
        key: that clients must send (`Authorization: Bearer KEY`); None asks for none.
        origins: of pages elsewhere that may ask.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        house.end()

    app = FastAPI(
        title="lmlab",
        version=__version__,
        lifespan=lifespan,
        default_response_class=_Json,
        docs_url=None,
        redoc_url=None,
    )
    metrics = Metrics()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return answer_of(error)

    for kind in (LmlabError, RequestValidationError, HTTPException):
        app.exception_handler(kind)(failed)

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> str:
        return description.page(app.openapi())

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def measured() -> str:
        return metrics.text(house.gauges())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [entry.about() for entry in house.entries.values()]}

    @app.get("/v1/models/{model}")
    async def one_model(model: str) -> dict[str, Any]:
        if model not in house.entries:
            raise UnknownNameError("model", model, house.entries)
        return house.entries[model].about()

    @app.post("/v1/completions")
    async def completions(asked: asking.Completions, request: Request) -> Response:
        return await _completed(house, metrics, asked, request, answers.completions, _completion)

    @app.post("/v1/chat/completions")
    async def chat(asked: asking.Chat, request: Request) -> Response:
        return await _completed(house, metrics, asked, request, answers.chat, _chat)

    @app.post("/next")
    async def next_tokens(asked: asking.Next, request: Request) -> Response:
        async with house.using(asked.model) as served:
            return _Json(await while_there(request.receive, answers.following(served, asked)))

    @app.post("/score")
    async def score(asked: asking.Score, request: Request) -> Response:
        async with house.using(asked.model) as served:
            return _Json(await while_there(request.receive, answers.scored(served, asked)))

    @app.post("/ngrams")
    async def ngrams(asked: asking.Ngrams, request: Request) -> Response:
        async with house.using(asked.model) as served:
            return _Json(await while_there(request.receive, answers.counted(served, asked)))

    @app.post("/beam")
    async def beam(asked: asking.Grow) -> Response:
        async def events() -> AsyncGenerator[Any]:
            async with house.using(asked.model) as served, contextlib.aclosing(answers.grown(served, asked)) as steps:
                async for step in steps:
                    yield step

        return await streamed(events())

    @app.post("/tokenize")
    async def tokenize(asked: asking.Tokenize) -> Response:
        async with house.using(asked.model) as served:
            return _Json(answers.tokenized(served, asked))

    @app.post("/detokenize")
    async def detokenize(asked: asking.Detokenize) -> Response:
        async with house.using(asked.model) as served:
            return _Json(answers.detokenized(served, asked))

    @app.get("/tokenizer_info")
    async def tokenizer_info(model: str | None = None) -> Response:
        async with house.using(model) as served:
            return _Json(answers.tokenizer_info(served))

    routes = frozenset(path for route in app.routes if (path := getattr(route, "path", "")) not in _OPEN)
    app.add_middleware(Door, metrics=metrics, routes=routes, key=key, most=house.bounds.body << 20)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    if (PAGE / "index.html").is_file():
        app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


# -- answers ----------------------------------------------------------------------------------------------------------


async def _completed(
    house: House, metrics: Metrics, asked: Any, request: Request, pieces_of: Any, form: Any
) -> Response:
    """Text that was asked for, as it grows or whole, in one of OpenAI's forms."""
    head = {"id": f"cmpl-{time.time_ns():x}", "created": int(time.time()), "model": asked.model}

    async def pieces() -> AsyncGenerator[tuple[Any, Any]]:
        async with contextlib.AsyncExitStack() as stack:
            served = await stack.enter_async_context(house.using(asked.model))
            named = asked.draft is not None
            draft = await stack.enter_async_context(house.using(asked.draft)) if named else None
            async for piece in await stack.enter_async_context(contextlib.aclosing(pieces_of(served, asked, draft))):
                if isinstance(piece, answers.Usage):
                    metrics.add("lmlab_tokens_read_total", piece.read, model=served.id)
                    metrics.add("lmlab_tokens_written_total", piece.written, model=served.id)
                yield served, piece

    async def events() -> AsyncGenerator[Any]:
        async with contextlib.aclosing(pieces()) as found:
            async for served, piece in found:
                if isinstance(piece, answers.Piece):
                    if piece.text or piece.tokens.ids or piece.finish:
                        yield {**head, **form(served, asked, [piece], stream=True)}
                elif asked.stream_options is not None and asked.stream_options.include_usage:
                    yield {**head, **form(served, asked, [], stream=True), "usage": piece.told()}

    async def whole() -> dict[str, Any]:
        texts: dict[int, answers.Piece] = {}
        async for served, piece in pieces():
            if isinstance(piece, answers.Usage):
                told = {**head, **form(served, asked, [texts[at] for at in sorted(texts)], stream=False)}
                return {**told, "usage": piece.told()}
            if before := texts.get(piece.number):
                piece = piece._replace(text=before.text + piece.text, tokens=before.tokens.and_then(piece.tokens))
            texts[piece.number] = piece
        raise AssertionError("no usage came")

    if asked.stream:
        return await streamed(events())
    return _Json(await while_there(request.receive, whole()))


def _completion(served: Any, asked: Any, pieces: Sequence[answers.Piece], *, stream: bool) -> dict[str, Any]:
    choices = [
        {
            "index": piece.number,
            "text": piece.text,
            "logprobs": None if asked.logprobs is None else answers.logprobs(served, piece.tokens, asked.logprobs),
            "finish_reason": piece.finish,
        }
        for piece in pieces
    ]
    return {"object": "text_completion", "choices": choices}


def _chat(served: Any, asked: Any, pieces: Sequence[answers.Piece], *, stream: bool) -> dict[str, Any]:
    choices = [
        {
            "index": piece.number,
            "delta" if stream else "message": {"role": "assistant", "content": piece.text},
            "logprobs": answers.chat_logprobs(served, piece.tokens) if asked.logprobs else None,
            "finish_reason": piece.finish,
        }
        for piece in pieces
    ]
    return {"object": "chat.completion.chunk" if stream else "chat.completion", "choices": choices}


class _Json(JSONResponse):
    """JSON by orjson, which writes log-probabilities sixty times as fast."""

    def render(self, content: Any) -> bytes:
        with contextlib.suppress(TypeError):  # half a character, which ASCII alone can hold
            return orjson.dumps(content)
        return json.dumps(content, allow_nan=False).encode()


async def streamed(events: AsyncGenerator[Any]) -> Response:
    """Server-sent events; what goes wrong before the first is an answer of its own."""
    first = await anext(events)

    async def lines() -> AsyncGenerator[str]:
        async with contextlib.aclosing(events):
            try:
                yield f"data: {json.dumps(first)}\n\n"
                async for event in events:
                    yield f"data: {json.dumps(event)}\n\n"
            except Exception as error:  # noqa: BLE001 - the answer has begun: told in the stream
                yield f"data: {json.dumps(told_of(error)[1])}\n\n"
            yield _DONE

    return _Events(lines())


class _Events(Response):
    """A stream that ends at once when its client goes away, and soon when it reads no more."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncGenerator[str]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})  # nginx passes each event on
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with contextlib.aclosing(self._lines):
                async for line in self._lines:
                    async with asyncio.timeout(_READ_SECONDS):
                        await send({"type": "http.response.body", "body": line.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        with contextlib.suppress(_GoneError, TimeoutError):
            await while_there(receive, sent())


class _GoneError(HTTPException):
    """The client went away."""

    def __init__(self) -> None:
        super().__init__(499, "the client went away")


async def while_there(receive: Any, work: Awaitable[T]) -> T:
    """The result of some work, which is cancelled when the client goes away."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = task, _ = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _GoneError
        return task.result()
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)


# -- errors -----------------------------------------------------------------------------------------------------------


def answer_of(error: Exception) -> Response:
    """An error in OpenAI's form."""
    status, body = told_of(error)
    headers = {"Retry-After": "1"} if status == 429 else None
    return _Json(body, status, headers)


def told_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status of an error, and its body. What is no fault of the client is told to the log alone."""
    status, message, code = 500, "the server failed: its log says why", "server_error"
    if isinstance(error, RequestValidationError):
        status, message, code = 400, _invalid(error), "invalid_value"
    elif isinstance(error, HTTPException):
        status, message, code = error.status_code, f"{error.detail}: /docs lists what can be asked", "http_error"
    elif isinstance(error, BusyError):
        status, message, code = 429, str(error), "busy"
    elif isinstance(error, TooLongError):
        status, message, code = 503, str(error), "timeout"
    elif isinstance(error, MemoryError):
        status, message, code = 503, "the server is out of memory: ask for less, or try again later", "out_of_memory"
    elif isinstance(error, MissingExtraError):
        status, message, code = 501, str(error), "not_installed"
    elif isinstance(error, ArtifactError | StorageError):
        _log.error("%s", error)
        message, code = "the model or its text cannot be read: the server's log says why", "model_not_readable"
    elif isinstance(error, UnknownNameError) and str(error).startswith("no model "):
        status, message, code = 404, str(error), "model_not_found"
    elif isinstance(error, (UsageError, DataError)):
        status, message, code = 400, str(error), "invalid_value"
    else:
        _log.error("failed", exc_info=error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _invalid(error: RequestValidationError) -> str:
    """The first thing that is wrong with a request, in one line."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body is no JSON ({first.get('ctx', {}).get('error', 'it cannot be read')})"
    _, *place = first["loc"]
    listed = len(place) > 1 and isinstance(place[1], int)  # in a list; else what follows is a name of a type
    where = ".".join(map(str, place if listed else place[:1])) or "the body"
    said = first["msg"].replace("Input should be ", "").replace("Value error, ", "")
    if first["type"] == "model_attributes_type":
        return "the body is no JSON object: send one, with Content-Type: application/json"
    if first["type"] == "missing":
        return f"{where} is missing: name it"
    if first["type"] == "extra_forbidden":
        return f"{where} is no field of this request: leave it out; /docs lists them"
    return str(SettingError(where, first["input"], said, "/docs lists the fields"))
