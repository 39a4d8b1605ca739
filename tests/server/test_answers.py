"""Every endpoint on every family of model, each answer equal to the library's."""

import json
import math
from typing import Any

import pytest

from tests import huggingface
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


@each
def test_a_text_that_is_typed_and_mended_is_read_on(client: Any, library: Any, model: str) -> None:
    for text in ("a d", "a do", "a dog", "a do", "a dot", "the", "", "a dog and an owl ran", "t"):
        p = [token["p"] for token in ask(client, "/next", model=model, prompt=text, top=5)["tokens"]]
        assert p == pytest.approx(list(library[model].next_tokens(text, 5).values()), rel=1e-4)


def test_scores_tell_how_each_token_was_predicted(client: Any, library: Any) -> None:
    mixed = ask(client, "/score", model="lstm+kn3", text="a dog")
    assert [token["weights"] for token in mixed["tokens"]] == [{"lstm": 0.6, "kn3": 0.4}] * 6
    counted = ask(client, "/score", model="kn3", text="a dogg")
    assert [token["matched"] for token in counted["tokens"]] == [2, 2, 3, 3, 3, 1, 1]  # no text begins with "a "


def test_the_counts_and_training_lines_of_ngrams(client: Any, library: Any) -> None:
    told = ask(client, "/ngrams", model="kn3", text="a dog sat")["tokens"]
    expected = library["kn3"].plot.ngram("a dog sat").rows
    assert [list(token.values()) for token in told] == [pytest.approx([*row.values()]) for row in expected]
    assert any(token["count"] and token["line"] for token in told)
    refused = client.post("/ngrams", json={"model": "lstm", "text": "a dog"})
    assert (refused.status_code, "only an n-gram model has counts" in refused.text) == (400, True)


@each
def test_what_is_echoed_has_the_librarys_log_probabilities(client: Any, library: Any, model: str) -> None:
    asked = {"model": model, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
    text = ask(client, "/v1/completions", prompt="a dog", **asked)["choices"][0]
    ids = ask(client, "/tokenize", model=model, prompt="a dog")["tokens"]
    (spelled,) = ask(client, "/v1/completions", prompt=[[2, *ids]], **asked)["choices"]
    bits = library[model].score("a dog").columns["bits"][:-1]
    for choice, before in ((text, 0), (spelled, 1)):
        logprobs = choice["logprobs"]
        assert len(logprobs["tokens"]) == before + len(ids) + 1  # one token is written, whatever it is
        assert logprobs["token_logprobs"][:before] == [None] * before
        assert [-logp / math.log(2) for logp in logprobs["token_logprobs"][before:-1]] == pytest.approx(bits, rel=1e-4)
        tops = [max(top.values()) for top in logprobs["top_logprobs"][before:]]
        assert all(top >= logp for top, logp in zip(tops, logprobs["token_logprobs"][before:], strict=True))
        assert tops[-1] == logprobs["token_logprobs"][-1]  # greedy: equal to the last bit
        assert choice["text"][: len("a dog")] == "a dog"
        assert logprobs["text_offset"][before:-1] == [0, 1, 2, 3, 4]


@each
def test_a_stream_is_the_whole_in_pieces(client: Any, model: str) -> None:
    asked = {"model": model, "prompt": ["a ", "the"], "n": 2, "seed": 3, "max_tokens": 9, "logprobs": 2, "stop": "an"}
    whole = ask(client, "/v1/completions", **asked)
    lines = client.post("/v1/completions", json={**asked, "stream": True, "stream_options": {"include_usage": True}})
    *events, end = [line.removeprefix("data: ") for line in lines.text.split("\n\n") if line]
    assert end == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        pieces = [piece for chunk in chunks for piece in chunk["choices"] if piece["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces][-1] == choice["finish_reason"]
        for name, values in choice["logprobs"].items():
            assert [value for piece in pieces for value in piece["logprobs"][name]] == values


def test_any_strategy_and_best_of(client: Any, library: Any) -> None:
    beam = ask(client, "/v1/completions", model="kn3", prompt="a ", strategy="beam:width=4", n=2, max_tokens=8)
    expected = library["kn3"].generate("a ", "beam:width=4", n=2, max_tokens=8)
    assert [choice["text"] for choice in beam["choices"]] == [each.text for each in expected]
    best = ask(client, "/v1/completions", model="kn3", prompt="a ", n=1, best_of=5, max_tokens=8, seed=1)
    drawn = library["kn3"].generate("a ", n=5, max_tokens=8, seed=1)
    assert best["choices"][0]["text"] == min(drawn, key=lambda each: each.perplexity).text
    assert best["usage"]["completion_tokens"] >= 5
    draft = ask(client, "/v1/completions", model="lstm", strategy="speculative", draft="kn3", max_tokens=6, seed=2)
    expected = library["lstm"].generate("", "speculative", draft=library["kn3"].model, max_tokens=6, seed=2)
    assert draft["choices"][0]["text"] == expected[0].text


def test_a_bias_moves_a_token(client: Any) -> None:
    (id,) = ask(client, "/tokenize", model="lstm", prompt="Z")["tokens"]
    asked = {"model": "lstm", "max_tokens": 3, "temperature": 0}
    assert ask(client, "/v1/completions", **asked, logit_bias={str(id): 100})["choices"][0]["text"] == "ZZZ"


def test_nothing_new(client: Any) -> None:
    asked = {"model": "lstm", "prompt": "a dog", "max_tokens": 0, "logprobs": 0}
    assert ask(client, "/v1/completions", **asked)["choices"][0]["text"] == ""
    echoed = ask(client, "/v1/completions", **asked, echo=True)["choices"][0]
    assert (echoed["text"], echoed["finish_reason"], len(echoed["logprobs"]["tokens"])) == ("a dog", "length", 5)


@each
def test_a_beam_grows_as_the_librarys(client: Any, library: Any, model: str) -> None:
    asked = {"model": model, "prompt": "a d", "width": 3, "max_tokens": 5}
    events = client.post("/beam", json=asked).text.split("\n\n")[:-2]
    steps = [json.loads(event.removeprefix("data: ")) for event in events]
    nodes = {node["id"]: node for step in steps for node in step["nodes"]}
    assert [step["step"] for step in steps] == [0, 1, 2, 3, 4, 5][: len(steps)]
    assert all(node["parent"] in nodes for node in nodes.values() if node["id"])
    assert all((node["why"] is None) == (node["state"] == "live") for node in nodes.values())
    (best,), node = steps[-1]["best"], None
    logp = 0.0
    while nodes[best]["parent"] is not None:
        node, best = nodes[best], nodes[best]["parent"]
        logp += node["logp"]
    (expected,) = library[model].generate("a d", "beam:width=3", max_tokens=5)
    assert logp == pytest.approx(expected.logp, rel=1e-5)


@each
def test_tokens(client: Any, model: str) -> None:
    told = client.get("/tokenizer_info", params={"model": model}).json()
    assert ask(client, "/tokenize", model=model, prompt=told["bos_token"])["tokens"] == [2]
    assert ask(client, "/tokenize", model=model, prompt=told["eos_token"])["tokens"] == [3]
    ids = ask(client, "/tokenize", model=model, prompt="a Zoë", add_special_tokens=True)["tokens"]
    assert ids[0] == 2
    assert ask(client, "/detokenize", model=model, tokens=ids) == {"prompt": "a Zoë"}


@each
def test_names_of_tokens_are_unique(house: Any, client: Any, model: str) -> None:
    ask(client, "/tokenize", model=model, prompt="a")
    served = house.entries[model].served
    names = [served.names[id] for id in range(served.lm.tokenizer.vocab_size)]
    assert len({*names}) == len(names)


def test_a_chat_is_a_transcript(client: Any) -> None:
    turns = [{"role": "user", "content": "a dog"}]
    asked = {"max_tokens": 8, "seed": 4}
    found = ask(client, "/v1/chat/completions", model="lstm", messages=turns, logprobs=True, top_logprobs=2, **asked)
    ids = ask(client, "/tokenize", model="lstm", prompt="user: a dog\nassistant:")["tokens"]
    expected = ask(client, "/v1/completions", model="lstm", prompt=ids, stop=["\nuser: "], **asked)["choices"][0]
    assert found["choices"][0]["message"] == {"role": "assistant", "content": expected["text"]}
    assert len(found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2


@each
def test_many_prompts_are_echoed_with_or_without_rivals(client: Any, library: Any, model: str) -> None:
    asked = {"model": model, "echo": True, "max_tokens": 0}
    prompts = [[], *(ask(client, "/tokenize", model=model, prompt=text)["tokens"] for text in ("a dog sat", "an owl"))]
    vocab_size = library[model].model.vocab_size
    by_top = [ask(client, "/v1/completions", prompt=prompts, **asked, logprobs=top) for top in (0, 1, 2, vocab_size)]
    for number, text in enumerate(("a dog sat", "an owl"), 1):
        bits = library[model].score(text).columns["bits"][:-1]
        for found in by_top:
            logps = found["choices"][number]["logprobs"]["token_logprobs"]
            assert [-logp / math.log(2) for logp in logps] == pytest.approx(bits, rel=1e-4)
        tops = by_top[3]["choices"][number]["logprobs"]["top_logprobs"]
        assert sum(map(math.exp, tops[0].values())) == pytest.approx(1)
        for narrow in by_top[1:3]:
            for few, all_of in zip(narrow["choices"][number]["logprobs"]["top_logprobs"], tops, strict=True):
                assert max(few.values()) == max(all_of.values())
    assert [found["choices"][0]["logprobs"]["tokens"] for found in by_top] == [[]] * 4


@pytest.mark.parametrize(
    "language",
    [
        {"regex": "(a|the) [a-g]{3}"},
        {"json_schema": {"enum": ["a cat", "the dog"]}},
        {"json_schema": '{"enum": ["a cat", "the dog"]}'},
        {"grammar": 'start: ("a" | "b")+ "c"'},
    ],
    ids=str,
)
def test_what_may_be_written_is_the_librarys(client: Any, library: Any, language: Any) -> None:
    pytest.importorskip("llguidance", reason="the extra grammar is not installed")
    asked = {"n": 2, "max_tokens": 30, "seed": 5, **language}
    model = "gpt2" if "json_schema" in language else "lstm"
    found = ask(client, "/v1/completions", model=model, **asked)
    expected = library[model].generate("", **asked)
    assert [choice["text"] for choice in found["choices"]] == [each.text for each in expected]
    if schema := language.get("json_schema"):
        schema = json.loads(schema) if isinstance(schema, str) else schema
        told = {"type": "json_schema", "json_schema": {"name": "pets", "strict": True, "schema": schema}}
        turns = [{"role": "user", "content": "a pet"}]
        said = ask(client, "/v1/chat/completions", model=model, messages=turns, response_format=told)
        assert json.loads(said["choices"][0]["message"]["content"]) in schema["enum"]


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_template_of_the_model_lays_out_a_chat(tmp_path: Any) -> None:
    from fastapi.testclient import TestClient

    from lmlab.server.app import make_app
    from lmlab.server.bounds import Bounds
    from lmlab.server.house import House, entries_of

    tokenizer = huggingface.byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    huggingface.network("gpt2", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    native = tokenizer("<|user|>a dog<|endoftext|><|assistant|>").input_ids
    turns = [{"role": "user", "content": "a dog"}]
    with TestClient(make_app(House(entries_of([f"hf:{tmp_path}"]), Bounds()))) as client:
        asked = {"model": tmp_path.name, "max_tokens": 8, "seed": 4}
        found = ask(client, "/v1/chat/completions", messages=turns, **asked)
        expected = ask(client, "/v1/completions", prompt=[id + 4 for id in native], **asked)
        assert found["usage"]["prompt_tokens"] == len(native)
        assert found["choices"][0]["message"]["content"] == expected["choices"][0]["text"]
        spelled = [{"role": "user", "content": "<|endoftext|>"}]
        refused = client.post("/v1/chat/completions", json={**asked, "messages": spelled})
    assert refused.status_code == 400
    assert "a message spells '<|endoftext|>'" in refused.json()["error"]["message"]
