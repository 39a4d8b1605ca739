from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lmlab.errors import ArtifactError, SettingError
from lmlab.memory import check_array, map_array, save_array
from lmlab.models.base import LanguageModel, Storable
from lmlab.models.ngram import Ngram
from lmlab.models.ngram.smoothing import SMOOTHINGS
from lmlab.models.scorers import Arrays
from lmlab.vocabulary import BOS, EOS, PAD

from .reference import lay

V = 12
SHAKESPEARE = Path(os.environ.get("LMLAB_DATA", "/nowhere")) / "tinyshakespeare.txt"


def corpus(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return lay([(4 + rng.geometric(0.4, rng.integers(0, 15))).clip(max=V - 2).tolist() for _ in range(40)])


def model_of(order: int = 4, smoothing: str = "kneser-ney") -> Ngram:
    return Ngram.estimate(Ngram.Settings(order, smoothing), V, corpus())


def test_it_is_what_it_claims() -> None:
    for protocol in (LanguageModel, Storable):
        assert isinstance(model_of(), protocol)
    assert type(model_of().scorer()) is Arrays


@pytest.mark.parametrize("settings", [{"order": 0}, {"k": 0.0}, {"smoothing": "good-turing"}])
def test_settings_have_bounds(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Ngram.Settings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 4])
def test_step_equals_start_and_select_gathers(order: int, smoothing: str) -> None:
    model = model_of(order, smoothing)
    prompts = [[5, 6], [], [11, 5, 5, 5, 7], [6]]
    logp_BV, state = model.start(prompts)
    assert (logp_BV.dtype, logp_BV.shape) == (torch.float32, (4, V))
    rows, words = [2, 0, 0, 3, 1], [5, 5, 6, 11, 7]
    logp_KV, _ = model.step(state.select(torch.tensor(rows)), torch.tensor(words))
    longer = [[*prompts[row], word] for row, word in zip(rows, words, strict=True)]
    assert torch.equal(logp_KV, model.start(longer)[0])
    assert torch.equal(model.start(prompts)[0], logp_BV)


@pytest.mark.parametrize("smoothing", ["kneser-ney", "stupid-backoff", "mle"])
def test_parallel_scores_equal_stepwise_ones(smoothing: str) -> None:
    model = model_of(3, smoothing)
    ids_BT = torch.tensor([[5, 6, 5, EOS], [7, EOS, PAD, PAD], [EOS, 5, BOS, 6]])
    mask_BT = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4])
    expected = torch.zeros(3, 4)
    logp_BV, state = model.start([[], [], []])
    for t in range(4):
        expected[:, t] = logp_BV[torch.arange(3), ids_BT[:, t]]
        logp_BV, state = model.step(state, ids_BT[:, t])
    assert torch.allclose(model.logp(ids_BT, mask_BT), expected.masked_fill(~mask_BT, 0), atol=2e-6)
    assert torch.equal(model.logp(torch.where(mask_BT, ids_BT, -100), mask_BT), model.logp(ids_BT, mask_BT))


def test_ngrams_are_counted() -> None:
    model = Ngram.estimate(Ngram.Settings(3), V, lay([[5, 6], [5, 6, 5]]))
    assert model.ngrams == (V, 5, 4)
    assert model.nbytes == V * (8 + 4 + 4 + 4) + 5 * (8 + 4 + 4 + 4) + 4 * (8 + 4)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 3, 20])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, order: int, smoothing: str) -> None:
    model = model_of(order, smoothing)
    model.save(tmp_path)
    again = Ngram.load(tmp_path, model.settings, V)
    assert np.array_equal(again.logp_array(corpus(1)), model.logp_array(corpus(1)))
    assert torch.equal(again.start([[5, 6], [11]])[0], model.start([[5, 6], [11]])[0])
    assert (again.notes, again.ngrams, again.unnormalised) == (model.notes, model.ngrams, model.unnormalised)


def test_a_loaded_model_stays_on_disk(tmp_path: Path) -> None:
    model_of().save(tmp_path)
    again = Ngram.load(tmp_path, Ngram.Settings(4), V)
    assert isinstance(again.trie.levels[3].logp_G.base.obj, mmap.mmap)


def damage(folder: Path, how: str) -> None:
    match how:
        case "missing":
            (folder / "logp_2.npy").unlink()
        case "truncated":
            path = folder / "key_3.npy"
            path.write_bytes(path.read_bytes()[:-5])
        case "empty":
            (folder / "backoff_1.npy").write_bytes(b"")
        case "another's":
            np.save(folder / "suffix_2.npy", np.zeros(3, dtype=np.uint32))
        case "type":
            np.save(folder / "logp_1.npy", np.zeros(V))
        case "unordered":
            np.save(folder / "key_4.npy", np.load(folder / "key_4.npy")[::-1])
        case "json":
            (folder / "ngram.json").write_text("{")
        case "sizes":
            (folder / "ngram.json").write_text(json.dumps({"ngrams": 4, "absent": 0.0, "notes": []}))


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "another's", "type", "unordered", "json", "sizes"])
def test_a_damaged_folder_is_refused(tmp_path: Path, how: str) -> None:
    model_of().save(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(ArtifactError, match="is no sound n-gram model"):
        Ngram.load(tmp_path, Ngram.Settings(4), V).check()


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    model = model_of(2)
    model.save(tmp_path)
    for path in sorted(tmp_path.glob("*.npy")):
        sound = path.read_bytes()
        for place in range(0, len(sound), 7):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << place % 8]) + sound[place + 1 :])
            with pytest.raises(ArtifactError, match=f"{path.name}(: | cannot be read)"):
                Ngram.load(tmp_path, model.settings, V).check()
        path.write_bytes(sound)
    about = tmp_path / "ngram.json"
    about.write_text(about.read_text().replace('"absent": 0.0', '"absent": 0.5'))
    with pytest.raises(ArtifactError, match=r"ngram\.json is not as it was written"):
        Ngram.load(tmp_path, model.settings, V)


def test_a_change_anywhere_in_a_large_array_is_found(tmp_path: Path) -> None:
    array = np.arange(1_000_000, dtype="<u4")
    checksums = save_array(tmp_path / "array.npy", array)
    written = np.load(tmp_path / "array.npy", mmap_mode="r+")
    for number in (0, 730_000, 999_999):
        written[number] ^= 1
        with pytest.raises(ValueError, match="not as it was"):
            check_array(map_array(tmp_path / "array.npy", "<u4", len(array), checksums), checksums)
        written[number] ^= 1
    check_array(map_array(tmp_path / "array.npy", "<u4", len(array), checksums), checksums)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    model_of().save(tmp_path)
    for order, vocab_size in ((3, V), (4, V + 1)):
        with pytest.raises(ArtifactError, match=f"not order {order} with {vocab_size} words"):
            Ngram.load(tmp_path, Ngram.Settings(order), vocab_size)


def test_estimating_and_querying_leave_torch_alone(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, numpy as np\n"
        "from lmlab.models.ngram import Ngram\n"
        "ids = np.array([2, 4, 5, 3], dtype=np.uint16)\n"
        "model = Ngram.estimate(Ngram.Settings(3), 6, ids)\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "model.save(folder)\n"
        "Ngram.load(folder, model.settings, 6).logp_array(ids)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="LMLAB_DATA does not hold tinyshakespeare.txt")
@pytest.mark.parametrize(("order", "nats"), [(6, 1.5226), (7, 1.5165), (8, 1.5192)])
def test_tinyshakespeare(order: int, nats: float) -> None:
    """Characters, the first 90 % counted as one document, the last 10 % scored as one after <bos>."""
    text = SHAKESPEARE.read_text(encoding="utf-8")
    ids = {symbol: i for i, symbol in enumerate(sorted(set(text)), 4)}
    cut = int(0.9 * len(text))
    train_N, test_N = (lay([[ids[symbol] for symbol in part]]) for part in (text[:cut], text[cut:]))
    model = Ngram.estimate(Ngram.Settings(order), len(ids) + 4, train_N)
    assert -model.logp_array(test_N)[1:-1].mean(dtype=np.float64) == pytest.approx(nats, abs=1e-4)


def test_every_ngram_can_be_seen() -> None:
    model = Ngram.estimate(Ngram.Settings(3), V, lay([[5, 6], [5, 6, 5]]))
    assert [ids for ids, _, _ in model.items(3)] == [(2, 5, 6), (5, 6, 3), (5, 6, 5), (6, 5, 3)]
    for ids, logp, backoff in model.items(2):
        row_V = model.trie.rows(model.trie.begin([list(ids[:1])]))[0]
        assert logp == pytest.approx(row_V[ids[1]])
        assert backoff <= 0
    assert len(list(model.items(1))) == V
    with pytest.raises(SettingError, match="k is 4, but must be 1 to 3"):
        next(model.items(4))
