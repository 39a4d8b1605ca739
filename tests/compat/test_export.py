"""Exported models give the numbers of the run: in transformers, by nothing but the folder, and in onnxruntime."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import lmlab
from lmlab.compat.export import export
from lmlab.decoding import Greedy, decode, finish
from lmlab.errors import MissingExtraError, RunExistsError, UnknownNameError, UsageError
from lmlab.vocabulary import BOS, EOS
from tests.texts import QUICK, TEXT

MODELS = {
    "rnn": {"hidden": 8, "layers": 2},
    "lstm": {"hidden": 8, "input": "tied", "embedding": 6},
    "gru": {"hidden": 8, "input": "one-hot"},
    "cnn": {"channels": 8, "layers": 3, "kernel": 3, "dilation": 2},
    "cnn-gated": {"channels": 8, "layers": 2, "gated": True, "embedding": 8},
    "transformer": {"width": 12, "heads": 2, "layers": 2, "window": 7},
    "lstm-adaptive": {"hidden": 8, "softmax": "adaptive"},
}
TOKENIZERS = ("char", "byte", "bpe", "word")
PROMPTS = ["the cat", "", "an owl saw the 漢字 sign.\nThe"]


@pytest.fixture(scope="module")
def runs():
    made = {}

    def run(name, tokenizer="char"):
        if (name, tokenizer) not in made:
            kind = name.partition("-")[0]
            model = {"kind": kind, **MODELS[name]}
            made[name, tokenizer] = lmlab.train(text=TEXT, tokenizer=tokenizer, model=model, train=QUICK)
            network = made[name, tokenizer].model
            with torch.no_grad():
                for weight in network.parameters():
                    weight *= 3  # so that rows differ
            network.temperature = 1.1
        return made[name, tokenizer]

    return run


def opened(folder):
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_logits_in_transformers_are_ours(runs, name, tmp_path):
    lm = runs(name)
    export(lm, "hf", tmp_path / "out")
    model, tokenizer = opened(tmp_path / "out")
    given = tokenizer(PROMPTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.no_grad():
        logits_BTV = model(**given).logits
    prompts = [lm.tokenizer.encode(prompt).ids.tolist() for prompt in PROMPTS]
    logp_BV, _ = lm.model.start(prompts)
    torch.testing.assert_close(logits_BTV[:, -1].log_softmax(-1), logp_BV, atol=1e-5, rtol=1e-5)
    written = model.generate(**given, max_new_tokens=12, do_sample=False)[:, given.input_ids.shape[1] :].tolist()
    for ids, native in zip(prompts, written, strict=True):
        (found,) = finish(decode(lm.model, ids, Greedy(), max_tokens=12))
        assert found.ids() == native[: native.index(EOS) if EOS in native else None][:12]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_texts_are_read_once_by_generate(runs, name, tmp_path, monkeypatch):
    export(runs(name), "hf", tmp_path / "out")
    model, tokenizer = opened(tmp_path / "out")
    given = tokenizer(PROMPTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    read, forward = [], model.body.forward
    monkeypatch.setattr(model.body, "forward", lambda ids, *more: read.append(ids.shape[1]) or forward(ids, *more))
    for how in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        asked = {
            "max_new_tokens": 15,
            "do_sample": False,
            "output_scores": True,
            "return_dict_in_generate": True,
            **how,
        }
        read.clear()
        with_state = model.generate(**given, **asked)
        assert set(read[1:]) == {1}
        without = model.generate(**given, **asked, use_cache=False)
        assert torch.equal(with_state.sequences, without.sequences)
        torch.testing.assert_close(torch.stack(with_state.scores), torch.stack(without.scores), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_tokenizer_goes_along(runs, kind, tmp_path):
    lm = runs("rnn", kind)
    export(lm, "hf", tmp_path / "out")
    _, tokenizer = opened(tmp_path / "out")
    for text in ("the cat <bos> sat on an owl", "naïve Zoë wrote", "[UNK] <eos>"):
        ids = lm.tokenizer.encode(text).ids.tolist()
        if kind != "word" or "<" not in text:
            assert tokenizer(text).input_ids == [BOS, *ids]
    if kind != "word":
        assert tokenizer.decode(lm.tokenizer.encode("the cat sat").ids.tolist()) == "the cat sat"


def test_the_folder_needs_no_lmlab(runs, tmp_path):
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    export(runs("lstm"), "hf", tmp_path / "out")
    code = (
        "import sys; sys.modules['lmlab'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path / 'out')!r}, trust_remote_code=True)\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / 'out')!r}, trust_remote_code=True)\n"
        "given = tokenizer('the cat', return_tensors='pt', return_token_type_ids=False)\n"
        "print(tokenizer.decode(model.generate(**given, max_new_tokens=5)[0]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_steps_in_onnxruntime_are_ours(runs, name, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    lm = runs(name)
    export(lm, "onnx", tmp_path / "out")
    session = runtime.InferenceSession(str(tmp_path / "out" / "step.onnx"), providers=["CPUExecutionProvider"])
    rows = 3
    first = np.load(tmp_path / "out" / "initial_state.npz")
    state = {each: np.repeat(first[each], rows, 0) for each in first.files}
    texts_BT = np.random.default_rng(0).integers(4, lm.model.vocab_size, (rows, 12))
    _, ours = lm.model.start([[]] * rows)
    logp_BV, *after = session.run(None, {"tokens": np.full(rows, BOS), **state})
    np.testing.assert_allclose(logp_BV, lm.model.start([[]] * rows)[0], atol=1e-4)
    for tokens_B in texts_BT.T:
        state = dict(zip(state, after, strict=True))
        logp_BV, *after = session.run(None, {"tokens": tokens_B, **state})
        expected_BV, ours = lm.model.step(ours, torch.from_numpy(tokens_B))
        np.testing.assert_allclose(logp_BV, expected_BV, atol=1e-4)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_what_cannot_be_exported(runs, tmp_path, monkeypatch):
    with pytest.raises(UnknownNameError, match="no format is called 'hff': did you mean 'hf'"):
        export(runs("rnn"), "hff", tmp_path / "out")
    ngram = lmlab.train(text=TEXT, tokenizer="word", model="ngram", order=2)
    with pytest.raises(UsageError, match="kind ngram is not exported: lmlab ngram arpa"):
        export(ngram, "hf", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(RunExistsError):
        export(runs("rnn"), "hf", tmp_path / "there")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lmlab\[onnx\]'"):
        export(runs("rnn"), "onnx", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_verb_says_what_it_wrote(runs, tmp_path, capsys):
    from tests.cli.calls import call

    runs("rnn").save(tmp_path / "run")
    called = call(capsys, "export", tmp_path / "run", "--to", "hf", "-o", tmp_path / "out", "--json")
    assert set(called.json["files"]) >= {"config.json", "model.safetensors", "modeling_lmlab.py", "tokenizer.json"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["kind"] == "rnn"
