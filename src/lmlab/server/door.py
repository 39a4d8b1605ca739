"""What stands before every route, in plain ASGI: the key, the bound on bodies, slow clients; and what is counted."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_BODY_SECONDS = 30.0
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = ((b"content-security-policy", _POLICY), (b"x-content-type-options", b"nosniff"))  # of every answer


class Metrics:
    """Counts since the start, in the text form of Prometheus."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, value: float = 1, **labels: Any) -> None:
        """Count something."""
        told = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
        self._values[name, f"{{{told}}}" if told else ""] += value  # type: ignore[assignment]

    def text(self, gauges: Mapping[str, Mapping[str, float]]) -> str:
        """All counters, and gauges by model."""
        lines, before = [], ""
        for (name, labels), value in sorted(self._values.items()):
            lines += [f"# TYPE {name} counter"] if name != before else []
            lines.append(f"{name}{labels} {value:g}")
            before = name
        for name, of_models in gauges.items():
            lines.append(f"# TYPE {name} gauge")
            lines += [f'{name}{{model="{_escaped(model)}"}} {value:g}' for model, value in of_models.items()]
        return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Door:
    """Reads a request whole, within bounds, and lets it in.

    Args:
        app: what stands behind it.
        metrics: counts requests.
        routes: the paths that are counted by name; all others are counted as one.
        key: that clients must send but for the page and `/health`; None asks for none.
        most: bytes of a body.
    """

    def __init__(self, app: Any, metrics: Metrics, routes: frozenset[str], key: str | None, most: int) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes
        self._key, self._most = None if key is None else key.encode(), most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, path, statuses = time.perf_counter(), scope["path"], []

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            await self._let_in(scope, receive, noted)
        finally:
            named = path if path in self._routes else "other"
            self._metrics.add("lmlab_requests_total", path=named, status=statuses[0] if statuses else 499)
            self._metrics.add("lmlab_request_seconds_total", time.perf_counter() - began, path=named)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        asks = scope["method"] == "POST" or scope["path"].startswith("/v1/") or scope["path"] in self._routes
        if asks and self._key is not None and scope["path"] != "/health":
            given = headers.get(b"authorization", b"").partition(b" ")[2].strip()
            if not hmac.compare_digest(given, self._key):
                wrong = "the API key is missing or wrong: send Authorization: Bearer KEY"
                await _refuse(send, 401, wrong, "invalid_api_key")
                return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self._most:
            await self._refuse_size(send)
            return
        body, more = bytearray(), scope["method"] in ("POST", "PUT", "PATCH")
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._most:
                        await self._refuse_size(send)
                        return
        except TimeoutError:
            await _refuse(send, 408, f"the body did not arrive within {_BODY_SECONDS:g} s: send it again", "timeout")
            return
        first = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replayed() -> Message:
            return first.pop() if first else await receive()

        await self._app(scope, replayed, send)

    async def _refuse_size(self, send: Send) -> None:
        message = f"the body is too large, but may have {self._most:,} bytes: send less at once"
        await _refuse(send, 413, message, "too_large")


async def _refuse(send: Send, status: int, message: str, code: str) -> None:
    """An error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
