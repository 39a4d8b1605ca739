"""What no client should send: one clear line in OpenAI's form, no path, no traceback, and the server goes on."""

import json
import shutil
from typing import Any

import pytest

from tests.server.conftest import MODELS

JSON = {"content-type": "application/json"}
BAD = [
    ("/v1/completions", {"model": "lstm", "logprobs": True}, "logprobs is True, but must be a valid integer"),
    ("/v1/completions", {"model": "lstm", "logprobs": 10_000}, "logprobs is 10000, but must be an integer <= 29"),
    ("/v1/completions", {"model": "lstm", "n": 0}, "n is 0, but must be"),
    ("/v1/completions", {"model": "lstm", "n": 200}, "is 200, but must be 128 at most"),
    ("/v1/completions", {"model": "lstm", "n": 3, "best_of": 2}, "best_of is 2, but must be an integer >= n"),
    ("/v1/completions", {"model": "lstm", "best_of": 2, "stream": True}, "best_of cannot be streamed"),
    ("/v1/completions", {"model": "lstm", "prompt": [4, 10**6]}, "prompt is 1000000, but must be ids"),
    ("/v1/completions", {"model": "lstm", "prompt": [4, -1]}, "prompt is -1, but must be ids"),
    ("/v1/completions", {"model": "lstm", "prompt": [4, 2]}, "without [PAD] and <bos>"),
    ("/v1/completions", {"model": "lstm", "prompt": [4.0]}, "prompt is [4.0], but must be"),
    ("/v1/completions", {"model": "lstm", "prompt": "QQ"}, "the prompt has 'Q'"),
    ("/v1/completions", {"model": "lstm", "prompt": {}}, "prompt is {}, but must be"),
    ("/v1/completions", {"model": "lstm", "max_tokens": 10**9}, "max_tokens is 1000000000, but must be an integer"),
    ("/v1/completions", {"model": "lstm", "temperature": -1}, "temperature is -1, but must be a number >= 0"),
    ("/v1/completions", {"model": "lstm", "temprature": 1}, "did you mean 'temperature'?"),
    ("/v1/completions", {"model": "lstm", "strategy": "bean"}, "did you mean 'beam'?"),
    ("/v1/completions", {"model": "lstm", "strategy": "beam:width=4000"}, "is 4000, but must be 128 at most"),
    ("/v1/completions", {"model": "lstm", "strategy": "speculative"}, "draft is 'nothing', but must be"),
    ("/v1/completions", {"model": "lstm", "stop": [""]}, "stop is [''], but must be strings, none empty"),
    ("/v1/completions", {"model": "lstm", "logit_bias": {"²": 1}}, "logit_bias is '²', but must be an id"),
    ("/v1/completions", {"model": "lstm", "seed": -1}, "seed is -1, but must be"),
    ("/v1/completions", {"model": "lstm", "regex": "(", "max_tokens": 2}, "regex is '(', but must be a regular"),
    ("/v1/completions", {"model": "lstm", "regex": "a", "grammar": "b"}, "what may be written is told twice"),
    ("/v1/completions", {"model": "lstm", "regex": "[0-9]"}, "no token goes on at the beginning as the grammar wants"),
    ("/v1/completions", {"model": "lstm", "response_format": {"type": "json_schema"}}, "json_schema is None, but must"),
    ("/v1/completions", {"model": "lstm", "response_format": {"type": "xml"}}, "response_format is 'xml', but must be"),
    (
        "/v1/completions",
        {"model": "gpt2", "prompt": "a " * 8_000, "echo": True, "logprobs": 200},
        "the tokens times logprobs is",
    ),
    ("/v1/chat/completions", {"model": "lstm", "messages": []}, "messages is [], but must"),
    (
        "/v1/chat/completions",
        {"model": "lstm", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        "messages.0.content is [{'type': 'text', 'text': 'hi'}], but must be a valid string",
    ),
    ("/v1/completions", {"model": "lstm", "must": ["a", 3]}, "must.1 is 3, but must be a valid string"),
    ("/v1/completions", {"model": "lstm", "seed": 2**70}, "seed is 1180591620717411303424, but must be less than"),
    ("/v1/completions", {"model": ["kn3", "lstm"]}, "model is ['kn3', 'lstm'], but must be a valid string"),
    ("/v1/completions", {"model": "lstm", "logprobs": -1}, "logprobs is -1, but must be greater than or equal to 0"),
    ("/v1/completions", {"model": "lstm", "n": 2**70}, "n is 1180591620717411303424, but must be less than"),
    ("/next", {"model": "lstm", "top": 0}, "top is 0, but must be"),
    ("/score", {"model": "lstm", "text": ""}, "text holds no text"),
    ("/score", {"model": "lstm"}, "text is missing"),
    ("/score", {"model": "lstm", "text": "a", "more": 1}, "more is no field of this request"),
    ("/ngrams", {"model": "kn3", "text": ""}, "text holds no text"),
    ("/ngrams", {"model": "kn3"}, "text is missing"),
    ("/ngrams", {"model": "kn3", "text": ["a"]}, "text is ['a'], but must be a valid string"),
    ("/ngrams", {"model": "kn3", "text": "a", "top": 3}, "top is no field of this request"),
    ("/ngrams", {"model": "kn3", "text": "a\0"}, "text holds U+0000"),
    ("/ngrams", {"model": "kn3", "text": "a" * 61}, "62 tokens, but this picture has room for 60"),
    ("/ngrams", {"model": "kn3", "text": "a" * 40_000}, "the prompt has 40000 tokens, but may have 32768: cut it"),
    ("/ngrams", {"model": "lstm", "text": "a"}, "only an n-gram model has counts, and this run's is lstm"),
    ("/ngrams", {"model": "lstm+kn3", "text": "a"}, "and this run's is composed of several"),
    ("/beam", {"model": "lstm", "width": 129}, "is 129, but must be 128 at most"),
    ("/beam", {"model": "lstm", "strategy": "greedy"}, "strategy is 'greedy', but must be a kind of beam"),
    ("/beam", {"model": "lstm", "n": 9}, "n is 9, but must be an integer <= the beam's width 5"),
    ("/detokenize", {"model": "lstm", "tokens": [29]}, "but must be ids of the vocabulary, 0 to 28"),
]


@pytest.mark.parametrize(("path", "asked", "said"), BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_is_named(client: Any, path: str, asked: Any, said: str, stream: bool) -> None:
    answer = client.post(path, json={**asked, **({"stream": True} if stream and "completions" in path else {})})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert said in error["message"]
    assert "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/completions", "/next", "/score", "/beam", "/tokenize"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b'{"model": NaN}'],
    ids=lambda body: repr(body[:8]),
)
def test_what_is_no_request_is_refused(client: Any, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_an_unknown_model(client: Any) -> None:
    answer = client.post("/score", json={"model": "lsmt", "text": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "did you mean 'lstm'?" in answer.json()["error"]["message"]


def test_what_is_not_there_is_told_where_to_look(client: Any) -> None:
    for method, path, status in (("GET", "/v1/completions", 404), ("POST", "/v1/nothing", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"].endswith(": /docs lists what can be asked")
    plain = client.post("/score", content=b'{"model": "lstm", "text": "a"}', headers={"content-type": "text/plain"})
    assert plain.json()["error"]["message"] == (
        "the body is no JSON object: send one, with Content-Type: application/json"
    )


def test_numbers_beyond_floats_are_refused(client: Any) -> None:
    for value in ("NaN", "Infinity", "1e999"):
        body = f'{{"model": "lstm", "temperature": {value}, "logit_bias": {{"4": {value}}}}}'
        answer = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text


def test_a_body_may_have_so_many_bytes(client: Any) -> None:
    def pieces() -> Any:
        for _ in range(100):
            yield b"x" * (1 << 20)

    for body in (b"x" * (9 << 20), pieces()):
        answer = client.post("/score", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "the body is too large, but may have 8,388,608 bytes" in answer.json()["error"]["message"]
    for length in ("-1", "x", "9" * 30):
        assert client.post("/score", content=b"", headers={"content-length": length}).status_code == 413


def test_no_answer_has_a_path_or_a_traceback(runs: Any, tmp_path: Any) -> None:
    from fastapi.testclient import TestClient

    from lmlab.server.app import make_app
    from lmlab.server.bounds import Bounds
    from lmlab.server.house import House, entries_of

    (tmp_path / "broken").mkdir()
    for file in (runs / "lstm").iterdir():
        if file.is_file():
            (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())
    house = House(entries_of([str(tmp_path / "broken")]), Bounds())
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nothing")
    with TestClient(make_app(house), raise_server_exceptions=False) as client:
        answer = client.post("/score", json={"model": "broken", "text": "a dog"})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the model or its text cannot be read: the server's log says why"


def test_a_training_text_that_is_gone_is_told_to_the_log(runs: Any, tmp_path: Any, caplog: Any) -> None:
    from fastapi.testclient import TestClient

    import lmlab
    from lmlab.server.app import make_app
    from lmlab.server.bounds import Bounds
    from lmlab.server.house import House, entries_of

    shutil.copy(runs / "poem.txt", tmp_path)
    lmlab.train(tmp_path / "poem.txt", model="ngram", order=2, tokenizer="char", out=tmp_path / "kn2")
    (tmp_path / "poem.txt").unlink()
    with TestClient(make_app(House(entries_of([str(tmp_path / "kn2")]), Bounds()))) as client:
        answer = client.post("/ngrams", json={"model": "kn2", "text": "a dog"})
        assert client.post("/score", json={"model": "kn2", "text": "a dog"}).status_code == 200
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the model or its text cannot be read: the server's log says why"
    assert str(tmp_path) in caplog.text


def test_a_key_is_asked_for(house: Any) -> None:
    from fastapi.testclient import TestClient

    from lmlab.server.app import make_app

    client = TestClient(make_app(house, key="sésame"))
    for path in ("/v1/models", "/metrics", "/tokenizer_info"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer sésame".encode()}).status_code == 200
    assert client.post("/score", json={"model": "lstm", "text": "a"}).json()["error"]["code"] == "invalid_api_key"
    assert client.get("/health").status_code == 200


def test_only_named_origins_may_ask_from_elsewhere(house: Any, client: Any) -> None:
    from fastapi.testclient import TestClient

    from lmlab.server.app import make_app

    named = TestClient(make_app(house, origins=["https://example.org"], key="k"))
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert named.options("/score", headers=asked).headers["access-control-allow-origin"] == "https://example.org"
    for other in (named.options("/score", headers={**asked, "Origin": "https://else.org"}), client.options("/score")):
        assert "access-control-allow-origin" not in other.headers


def test_metrics_count_what_was_asked(client: Any) -> None:
    client.post("/v1/completions", json={"model": "kn3", "prompt": "a", "max_tokens": 2})
    client.get("/nowhere/at/all")
    lines = client.get("/metrics").text.splitlines()
    assert any(line.startswith('lmlab_requests_total{path="/v1/completions",status="200"} ') for line in lines)
    assert any(line.startswith('lmlab_tokens_written_total{model="kn3"} ') for line in lines)
    assert 'lmlab_model_loaded{model="kn3"} 1' in lines
    assert "nowhere" not in json.dumps(lines)


def test_the_description_of_the_server_is_json(client: Any) -> None:
    described = json.loads(client.get("/openapi.json").content, parse_constant=pytest.fail)
    properties = described["components"]["schemas"]["Completions"]["properties"]
    assert {"prompt", "temperature", "top_p", "mirostat", "width"} <= properties.keys()
    page = client.get("/docs")
    assert page.status_code == 200
    assert all(f"<th scope=row>{name}<td>" in page.text for name in properties)
    assert "//" not in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert [each["id"] for each in client.get("/v1/models").json()["data"]].sort() == [*MODELS].sort()


def test_half_a_character_is_no_fault_of_the_server(client: Any) -> None:
    half = {"model": "lstm", "prompt": "a\ud800", "allow_unknown": True, "echo": True, "logprobs": 1, "max_tokens": 2}
    assert client.post("/v1/completions", content=json.dumps(half), headers=JSON).status_code == 200
    assert client.post("/v1/completions", content=json.dumps({**half, "stream": True}), headers=JSON).status_code == 200
    for path, more in (("/score", {"text": "\udc00a"}), ("/tokenize", {"prompt": "\ud800"})):
        assert client.post(path, content=json.dumps({"model": "lstm", **more}), headers=JSON).status_code in (200, 400)
    named = client.post("/score", content=json.dumps({"model": "\ud800", "text": "a", "\ud800": 1}), headers=JSON)
    assert named.status_code == 400


def test_a_draft_that_is_no_model_is_not_found(client: Any) -> None:
    answer = client.post("/v1/completions", json={"model": "lstm", "prompt": "the", "draft": ""})
    assert answer.status_code == 404
    assert "no model is called ''" in answer.json()["error"]["message"]
