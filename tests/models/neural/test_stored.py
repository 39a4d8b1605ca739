"""Networks that are stored read and write without torch, as the module of the same weights does."""

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lmlab import registry
from lmlab.errors import ArtifactError
from lmlab.models.base import whole
from lmlab.models.neural.base import NeuralModel
from lmlab.models.scorers import scorer_of
from lmlab.testing import LAWS, padding_changes_nothing, restarted_rows_begin_anew
from lmlab.vocabulary import BOS, EOS

V = 9
RECURRENT = [{}, {"layers": 2}, {"input": "tied"}, {"input": "one-hot", "layers": 2}]
VARIANTS = [(kind, settings) for kind in ("rnn", "lstm", "gru") for settings in RECURRENT]
VARIANTS += [("cnn", {}), ("cnn", {"layers": 1}), ("cnn", {"gated": True, "dilation": 2}), ("transformer", {})]
SIZES = {"cnn": {"channels": 8, "embedding": 6, "layers": 2, "kernel": 3}}
SIZES["transformer"] = {"width": 8, "heads": 2, "layers": 2, "window": 5}
KINDS = ("rnn", "lstm", "gru", "cnn", "transformer")
OF_EVERY_MODEL = [law for law in LAWS[: LAWS.index(restarted_rows_begin_anew)] if law is not padding_changes_nothing]


def network(kind, **settings):
    torch.manual_seed(0)
    make = registry.resolve("model", kind)
    model = make(make.Settings(**SIZES.get(kind, {"hidden": 8, "embedding": 6}) | settings), V).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def stored(folder, kind, **settings):
    model = network(kind, **settings)
    model.temperature = 1.25
    model.save(folder)
    return registry.stored(kind).load(folder, model.settings, V), model


@pytest.mark.parametrize(("kind", "settings"), VARIANTS, ids=str)
def test_a_stored_network_is_its_module(tmp_path, kind, settings):
    found, model = stored(tmp_path, kind, **settings)
    assert not isinstance(found, NeuralModel)
    assert found.shapes(model.settings, V) == {name: tuple(w.shape) for name, w in model.state_dict().items()}
    assert found.nbytes == model.nbytes
    assert {**found.training_defaults} == {**model.training_defaults}
    module = whole(found)
    assert type(module) is type(model)
    assert whole(found) is module
    assert module.temperature == 1.25
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, module.state_dict()[name])
    ids_N = np.array([BOS, 5, 6, 7, 6, EOS, BOS, EOS, BOS, 8, 8, EOS], np.uint32)
    for ways in zip(scorer_of(found).token_ranks(ids_N), scorer_of(model).token_ranks(ids_N), strict=False):
        assert ways[0][0] == pytest.approx(ways[1][0][: len(ways[0][0])], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("law", OF_EVERY_MODEL, ids=lambda law: law.__name__)
def test_law(tmp_path, kind, law):
    law(stored(tmp_path, kind)[0])


@pytest.mark.parametrize("kind", ["lstm", "cnn", "transformer"])
def test_texts_are_written_without_torch(tmp_path, kind):
    found, _ = stored(tmp_path, kind)
    given = ", ".join(f"{field.name}={getattr(found.settings, field.name)!r}" for field in fields(found.settings))
    program = f"""
import sys
from pathlib import Path
from lmlab import registry
from lmlab.decoding import Beam, Sample, decode, finish
kind = registry.stored({kind!r})
model = kind.load(Path({str(tmp_path)!r}), kind.Settings({given}), {V})
for strategy in (Sample("penalties", seed=1), Sample(seed=1), Beam(width=3)):
    finish(decode(model, [4, 5], strategy, max_tokens=9))
print("torch" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_what_numpy_cannot_step_is_the_module(tmp_path):
    for kind in KINDS:
        model = network(kind, softmax="adaptive")
        model.save(tmp_path)
        assert isinstance(registry.stored(kind).load(tmp_path, model.settings, V), NeuralModel)


@pytest.mark.parametrize("damage", ["nothing", "cut", "shape", "name", "temperature", "type"])
def test_damaged_weights_are_told_as_the_module_tells_them(tmp_path, damage):
    _, model = stored(tmp_path, "gru")
    path = tmp_path / "model.safetensors"
    named = load_file(path)
    if damage == "shape":
        named["output.bias"] = named["output.bias"][1:]
    elif damage == "name":
        named["other"] = named.pop("output.weight")
    elif damage == "temperature":
        named["temperature"] = np.array(-1.0)
    elif damage == "type":
        named["output.bias"] = named["output.bias"].astype(np.float64)
    save_file(named, path)
    if damage in ("nothing", "cut"):
        path.write_bytes(path.read_bytes()[: 40 if damage == "cut" else 0])
    told = []
    for kind in (registry.stored("gru"), type(model)):
        with pytest.raises(ArtifactError) as error:
            kind.load(tmp_path, model.settings, V)
        told.append(str(error.value))
    assert told[0] == told[1]


def test_weights_that_are_not_finite_are_refused(tmp_path):
    found, _ = stored(tmp_path, "rnn")
    found.check()
    path = tmp_path / "model.safetensors"
    named = load_file(path)
    named["output.bias"][3] = np.inf
    save_file(named, path)
    with pytest.raises(ArtifactError, match=r"NaN or infinite \(output.bias\)"):
        registry.stored("rnn").load(tmp_path, found.settings, V).check()
