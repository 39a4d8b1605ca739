"""Requests made from the server's own description, sound and broken ones: none gives a 500, none hangs."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.server.conftest import MODELS

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
_EVERY = {"deadline": None, "database": None, "suppress_health_check": [*HealthCheck]}


def fuzzed(client: Any, cases: int, number: int) -> Counter[tuple[str, int]]:
    """How often each path answered each status."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    operations = [each.ok() for each in schema.get_all_operations()]
    counts: Counter[tuple[str, int]] = Counter()

    def ask(case: Any) -> None:
        if isinstance(body := case.body, dict):  # most names are of no model, most numbers too large to be served
            if isinstance(body.get("model"), str):
                body["model"] = MODELS[len(body["model"]) % len(MODELS)]
            body |= {name: value % 40 for name, value in body.items() if type(value) is int and value > 40}
            if {"prompt", "messages"} & body.keys() and "token" not in case.path:
                body.setdefault("max_tokens", 8)
        for asked in (case.query, case.path_parameters):
            if isinstance(asked, dict) and "model" in asked and len(str(asked["model"])) % 2:
                asked["model"] = MODELS[len(str(asked["model"])) % len(MODELS)]
        answer = case.call(session=client, timeout=100)
        counts[case.path, answer.status_code] += 1
        assert answer.status_code < 500, (case.path, case.body, answer.text)
        assert answer.status_code == 200 or answer.json()["error"]["message"]

    for operation in operations:
        takes = [*operation.query, *operation.body]
        for mode in schemathesis.GenerationMode if takes else [schemathesis.GenerationMode.POSITIVE]:
            each = settings(max_examples=cases // (2 * len(operations)), **_EVERY)
            seed(number)(each(given(operation.as_strategy(generation_mode=mode))(ask)))()
    return counts


def test_a_few_requests(client: Any) -> None:
    counts = fuzzed(client, 120, 0)
    assert {path for path, _ in counts} == client.get("/openapi.json").json()["paths"].keys()
    for status in (200, 400):
        assert sum(times for (_, each), times in counts.items() if each == status) > 5


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_twenty_thousand_requests(client: Any, number: int) -> None:
    fuzzed(client, 1000, number)
