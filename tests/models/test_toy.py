"""The public fakes say exactly what they are told to."""

import math

import numpy as np
import pytest
import torch

from lmlab.errors import ArtifactError, SettingError
from lmlab.models.base import LanguageModel, Storable
from lmlab.models.scorers import Padded
from lmlab.models.toy import Scripted, Uniform
from lmlab.vocabulary import BOS, EOS


def test_uniform_spreads_over_all_but_pad_and_bos():
    logp, _ = Uniform(6).start([[]])
    assert logp.exp().tolist() == [[0, 0.25, 0, 0.25, 0.25, 0.25]]


def test_uniform_scores_in_parallel_and_leaves_padding_out():
    ids, mask = torch.tensor([[4, EOS, 0]]), torch.tensor([[True, True, False]])
    assert Uniform(6).logp(ids, mask).tolist() == [[-math.log(4), -math.log(4), 0]]


def test_scripted_follows_its_table_and_falls_back():
    model = Scripted.make({(): [0, 0, 0, 0, 1, 0], (5, 4): [0, 0, 0, 1, 0, 0]}, default=[0, 0, 0, 0.5, 0, 0.5])
    logp, state = model.start([[], [5]])
    assert logp.exp().tolist() == [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0.5, 0, 0.5]]
    logp, _ = model.step(state.select(torch.tensor([1, 0])), torch.tensor([4, 4]))
    assert logp.exp().tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 0.5, 0, 0.5]]


def test_scripted_default_is_uniform():
    assert Scripted.make({(4,): [0, 0, 0, 1, 0]}).start([[]])[0].exp()[0].tolist() == pytest.approx(
        [0, 1 / 3, 0, 1 / 3, 1 / 3]
    )


def test_scripted_cannot_be_altered_through_the_row_it_was_given_or_gives():
    given = np.array([0, 0, 0, 1.0, 0])
    model = Scripted.make({(): given})
    given[3], given[4] = 0, 1
    model.start([[]])[0][0, 3] = -9
    assert model.start([[]])[0][0, 3] == 0


def test_scripted_learns_how_documents_begin():
    ids = np.array([BOS, 4, EOS, BOS, 4, 5, EOS, BOS, 5, EOS, BOS, 4, EOS])
    model = Scripted.estimate(Scripted.Settings(depth=2), 6, ids)
    first, state = model.start([[]])
    assert first.exp()[0].tolist() == pytest.approx([0, 0, 0, 0, 0.75, 0.25])
    second, _ = model.step(state, torch.tensor([4]))
    assert second.exp()[0].tolist() == pytest.approx([0, 0, 0, 2 / 3, 0, 1 / 3])
    beyond = model.start([[4, 5]])[0]
    assert beyond.exp()[0].tolist() == pytest.approx([0, 0.25, 0, 0.25, 0.25, 0.25])


@pytest.mark.parametrize(
    "bad",
    [[0, 0, 0, 0.5, 0.4], [0.5, 0, 0, 0.5, 0], [0, 0, 0.1, 0.9, 0], [0, 0, 0, 2, -1], [0, 0, 0, math.nan, 1]],
)
def test_a_row_that_is_no_distribution_is_refused(bad):
    with pytest.raises(SettingError, match=r"^row is .* must be 5 probabilities that sum to 1"):
        Scripted.make({(): bad})


def test_rows_of_unequal_length_and_tables_without_rows_are_refused():
    with pytest.raises(SettingError, match="row is"):
        Scripted.make({(): [0, 0, 0, 1], (4,): [0, 0, 0, 1, 0]})
    with pytest.raises(SettingError, match="table is"):
        Scripted.make({})


def test_a_vocabulary_without_room_for_the_specials_is_refused():
    with pytest.raises(SettingError, match="vocab_size is 3"):
        Uniform(3)


def test_scripted_is_stored_to_the_last_bit(tmp_path):
    model = Scripted.make({(): [0, 0.1, 0, 0.2, 0.7], (4, 1): [0, 1 / 3, 0, 1 / 3, 1 / 3]})
    model.save(tmp_path)
    loaded = Scripted.load(tmp_path, model.settings, 5)
    for prompts in ([[]], [[4, 1]], [[4]]):
        assert torch.equal(loaded.start(prompts)[0], model.start(prompts)[0])


@pytest.mark.parametrize("damage", ["contexts.json", "rows.npy"])
@pytest.mark.parametrize("text", [None, "", "[[4]"])
def test_half_a_script_is_no_model(tmp_path, damage, text):
    model = Scripted.make({(): [0, 0, 0, 1, 0]})
    model.save(tmp_path)
    (tmp_path / damage).unlink()
    if text is not None:
        (tmp_path / damage).write_text(text)
    with pytest.raises(ArtifactError, match="holds no whole script"):
        Scripted.load(tmp_path, model.settings, 5)


def test_a_script_of_another_vocabulary_is_refused(tmp_path):
    model = Scripted.make({(): [0, 0, 0, 1, 0]})
    model.save(tmp_path)
    with pytest.raises(ArtifactError):
        Scripted.load(tmp_path, model.settings, 6)


def test_both_are_full_members_of_the_waist():
    for model in (Uniform(5), Scripted.make({(): [0, 0, 0, 1, 0]})):
        assert isinstance(model, LanguageModel)
        assert isinstance(model, Storable)
    assert isinstance(Uniform(5).scorer(), Padded)
