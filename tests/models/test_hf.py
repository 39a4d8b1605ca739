"""Hugging Face models against transformers itself: laws, logits, ragged batches, windows, what cannot be opened."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlab.decoding import Greedy, decode, finish
from lmlab.errors import ArtifactError, SettingError
from lmlab.models import hf
from lmlab.models.hf import HuggingFaceModel, open_model
from lmlab.models.scorers import scorer_of
from lmlab.testing import laws_for
from lmlab.vocabulary import BOS, EOS, UNK
from tests import huggingface

transformers = huggingface.transformers()
SHIFT = hf.SHIFT
SMALL = 6  # tokens of a vocabulary small enough to list all texts
LAWFUL = {
    "gpt2": ("gpt2", 64, {}, {}),
    "short-window": ("gpt2", 8, {}, {}),
    "stride-of-one": ("gpt2", 5, {}, {"stride": 1}),
    "one-position": ("gpt2", 1, {}, {}),
    "rotary-two-ends": ("Llama", 64, {}, {"eos": [SMALL - 1, SMALL - 2]}),
    "rotary-unknown": ("Llama", 8, {}, {"unk": 0}),
    "sliding-attention": ("Mistral", 64, {"sliding_window": 4}, {}),
    "alternating-attention": ("Gemma2", 16, {"sliding_window": 4}, {}),
    "no-positions": ("bloom", 64, {}, {}),
}


def lawful(name):
    kind, context, config, more = LAWFUL[name]
    how = {"bos": 0, "eos": [SMALL - 1], **more}
    return HuggingFaceModel(huggingface.network(kind, SMALL, context, **config), **how)


@pytest.mark.parametrize("name", LAWFUL)
def test_laws(name):
    model = lawful(name)
    for law in laws_for(model):
        law(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return huggingface.save(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def opened(folder):
    return open_model(str(folder))


def own_logp(network, ids):
    """What transformers gives the ids after these, by one forward pass without a cache."""
    with torch.no_grad():
        return network(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


PROMPTS = [[], [5], list(range(10, 40)), [200, 7, 7]]


def test_ragged_prompts_give_the_logits_of_transformers(opened):
    model, _ = opened
    bos = model.network.config.bos_token_id
    logp_BV, state = model.start([[id + SHIFT for id in prompt] for prompt in PROMPTS])
    for row, prompt in enumerate(PROMPTS):
        expected = own_logp(model.network, [bos, *prompt])
        torch.testing.assert_close(logp_BV[row, SHIFT:-1], expected[:-1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logp_BV[row, EOS], expected[-1], atol=1e-5, rtol=1e-5)
    grown_BV, _ = model.step(state, torch.tensor([9 + SHIFT] * len(PROMPTS)))
    for row, prompt in enumerate(PROMPTS):
        expected = own_logp(model.network, [bos, *prompt, 9])
        torch.testing.assert_close(grown_BV[row, SHIFT:-1], expected[:-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_greedy_text_is_that_of_generate(opened, prompt):
    model, _ = opened
    (found,) = finish(decode(model, [id + SHIFT for id in prompt], Greedy(), max_tokens=20))
    given = torch.tensor([[model.network.config.bos_token_id, *prompt]])
    expected = model.network.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=20, do_sample=False, pad_token_id=0
    )[0, given.shape[1] :].tolist()
    assert [id - SHIFT for id in found.ids()] == [id for id in expected if id != model.network.config.eos_token_id]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_long_texts_are_scored_in_the_windows_of_the_perplexity_docs(length, context, stride):
    network = huggingface.network("gpt2", SMALL, context)
    stride = min(stride, context)
    model = HuggingFaceModel(network, 0, [SMALL - 1], stride=stride)
    ids = np.random.default_rng(length).integers(0, SMALL - 1, length)
    text = [0, *ids.tolist(), SMALL - 1]
    expected, done, begin = [], 0, 0
    while done < length + 1:  # each window predicts what the one before did not
        end = min(begin + context, length + 1)
        with torch.no_grad():
            logp = network(torch.tensor([text[begin:end]])).logits[0].log_softmax(-1)
        expected += [float(logp[at - begin, text[at + 1]]) for at in range(done, end)]
        done, begin = end, begin + stride
    found = np.concatenate([*scorer_of(model).token_logp(np.array([BOS, *(ids + SHIFT), EOS]))])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_pieces_bound_memory_and_change_nothing(monkeypatch):
    model = lawful("short-window")
    ids_BT = torch.from_numpy(np.random.default_rng(0).integers(SHIFT, SHIFT + SMALL - 1, (5, 23)))
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    whole, prompts = model.logp(ids_BT, mask_BT), model.start(ids_BT.tolist())[0]
    monkeypatch.setattr(hf, "_PIECE_TOKENS", 3)
    monkeypatch.setattr(hf, "_PIECE_FLOATS", 2 * model.vocab_size)
    torch.testing.assert_close(model.logp(ids_BT, mask_BT), whole)
    torch.testing.assert_close(model.start(ids_BT.tolist())[0], prompts)


def test_several_ends_are_one(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "ends")
    settings = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [7, 9]}))
    model, tokenizer = open_model(str(other))
    assert tokenizer.vocab_size == model.vocab_size
    (logp_V,), _ = model.start([[]])
    own = own_logp(model.network, [model.network.config.bos_token_id])
    torch.testing.assert_close(logp_V[EOS], own[[7, 9, -1]].logsumexp(0))
    assert logp_V.exp().sum() == pytest.approx(1)


def test_a_stride_has_bounds():
    with pytest.raises(SettingError, match="stride is 9, but must be an integer from 1 to the context of 8"):
        HuggingFaceModel(huggingface.network("gpt2", SMALL, 8), 0, [1], stride=9)


def test_a_gguf_file_is_read(tmp_path):
    model, tokenizer = open_model(str(huggingface.save_gguf(tmp_path / "tiny.gguf")))
    text = "the rest, naïve 漢字"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    expected = own_logp(model.network, [model.network.config.bos_token_id, 5])
    torch.testing.assert_close(model.start([[5 + SHIFT]])[0][0, SHIFT:-1], expected[:-1], atol=1e-5, rtol=1e-5)
    assert model.start([[UNK]])[0].exp().sum() == pytest.approx(1)


# -- what cannot be opened --------------------------------------------------------------------------------------------


def _rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


BROKEN = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "config no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config unknown": lambda folder: _rewrite(folder / "config.json", lambda c: c.update(model_type="nothing-known")),
    "config of another size": lambda folder: _rewrite(folder / "config.json", lambda c: c.update(n_embd=18)),
    "config of odd types": lambda folder: _rewrite(folder / "config.json", lambda c: c.update(n_layer="two")),
    "vocabulary too small": lambda folder: _rewrite(folder / "config.json", lambda c: c.update(vocab_size=9)),
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
    "tokenizer no JSON": lambda folder: (folder / "tokenizer.json").write_text("{"),
    "tokenizer of nothing": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights cut": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:2000]
    ),
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "weights pickled": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
    "encoder": lambda folder: _rewrite(
        folder / "config.json", lambda c: c.update(model_type="bert", architectures=["BertForMaskedLM"])
    ),
    "encoder and decoder": lambda folder: _rewrite(
        folder / "config.json", lambda c: c.update(model_type="t5", architectures=["T5ForConditionalGeneration"])
    ),
    "state space": lambda folder: _rewrite(
        folder / "config.json", lambda c: c.update(model_type="mamba", architectures=["MambaForCausalLM"])
    ),
    "code of its own": lambda folder: _rewrite(
        folder / "config.json",
        lambda c: c.update(model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}),
    ),
    "neither bos nor eos": lambda folder: (
        _rewrite(folder / "config.json", lambda c: c.update(bos_token_id=None, eos_token_id=None)),
        _rewrite(folder / "tokenizer_config.json", lambda c: c.pop("eos_token")),
        (folder / "generation_config.json").unlink(),
    ),
}


def refused(name):
    with pytest.raises(ArtifactError) as error:
        open_model(name)
    message = str(error.value)
    assert message.startswith(f"hf:{name}")
    assert "\n" not in message
    assert ": " in message.removeprefix(f"hf:{name}"), "it names no remedy"
    return message


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_broken_is_told_in_a_line(folder, tmp_path, how):
    broken = shutil.copytree(folder, tmp_path / "broken")
    BROKEN[how](broken)
    message = refused(str(broken))
    if how == "code of its own":
        assert "runs no code" in message
    if how == "no tokenizer":
        assert "token" in message


def test_no_code_of_a_model_runs(folder, tmp_path):
    trap = shutil.copytree(folder, tmp_path / "trap")
    (trap / "own.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    BROKEN["code of its own"](trap)
    refused(str(trap))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("size", [0, 3, 4, 20, 400, 4000, -5000, -1])
def test_a_truncated_gguf_is_told_in_a_line(tmp_path, size):
    path = huggingface.save_gguf(tmp_path / "cut.gguf")
    path.write_bytes(path.read_bytes()[:size])
    refused(str(path))


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "nothing/of-that-name-here", "a/b/c", "missing.gguf", ".."])
def test_what_is_not_there_is_told_in_a_line(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(name)


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "text.txt").write_text("words")
    refused(str(tmp_path / "text.txt"))


def test_what_transformers_tells_and_draws_is_as_before(folder, capfd):
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    before = [logger.level for logger in loggers], transformers.utils.logging.is_progress_bar_enabled()
    open_model(str(folder))
    assert ([logger.level for logger in loggers], transformers.utils.logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")
