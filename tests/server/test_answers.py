"""Every endpoint on every family of model, each answer equal to the library's."""

import math
from typing import Any

import pytest

from tests.server.conftest import MODELS

each = pytest.mark.parametrize("model", MODELS)


def ask(client: Any, path: str, **asked: Any) -> Any:
    answer = client.post(path, json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


@each
def test_completions_are_the_librarys(client: Any, library: Any, model: str) -> None:
    asked = {"temperature": 0.8, "top_k": 20, "n": 3, "max_tokens": 12, "seed": 5, "stop": ["s"]}
    found = ask(client, "/v1/completions", model=model, prompt="a dog ", **asked)
    expected = library[model].generate("a dog ", **asked)
    assert [choice["text"] for choice in found["choices"]] == [each.text for each in expected]
    reasons = {"eos": "stop", "stop": "stop", "length": "length"}
    assert [choice["finish_reason"] for choice in found["choices"]] == [reasons[each.end] for each in expected]


@each
def test_next_is_the_librarys(client: Any, library: Any, model: str) -> None:
    found = ask(client, "/next", model=model, prompt="a dog ", top=5, top_k=2)
    p = [token["p"] for token in found["tokens"]]
    assert p == pytest.approx(list(library[model].next_tokens("a dog ", 5).values()))
    assert found["kept"] == 2
    assert sum(token["chain_p"] for token in found["tokens"]) == pytest.approx(1)


@each
def test_scores_are_the_librarys(client: Any, library: Any, model: str) -> None:
    found = ask(client, "/score", model=model, text="a dog sat on Zoë", alternatives=3)
    expected = library[model].score("a dog sat on Zoë")
    assert [token["bits"] for token in found["tokens"]] == pytest.approx(expected.columns["bits"].tolist(), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(expected.total["bits_per_byte"])
    first = found["tokens"][0]
    assert first["rank"] > 3 or math.log2(first["alternatives"][first["rank"] - 1]["p"]) == pytest.approx(
        -first["bits"], abs=1e-4
    )
