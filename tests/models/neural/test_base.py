"""The acceptance checks that hold for every architecture."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lmlab import kernels
from lmlab.errors import ArtifactError, UsageError
from lmlab.models.neural import base
from lmlab.models.neural.base import TensorState
from lmlab.tokens.batches import Columns, Lines
from lmlab.vocabulary import BOS, EOS, IGNORE, NEVER_PREDICTED, PAD
from tests.models.neural.acceptance import SMALL, V, documents, gap, in_pieces, make, text
from tests.stores import of_documents, random_stream

KINDS = [*SMALL]
EVERY = pytest.mark.parametrize("kind", KINDS)


@EVERY
def test_logits_are_one_row_a_position(kind):
    logits_BTV, state = make(kind)(text(3, 7))
    assert logits_BTV.shape == (3, 7, V)
    assert (logits_BTV[..., list(NEVER_PREDICTED)] == -torch.inf).all()
    ordinary = [id for id in range(V) if id not in NEVER_PREDICTED]
    assert logits_BTV[..., ordinary].isfinite().all()
    assert {len(tensor) for tensor in state.tensors} == {3}


@EVERY
def test_the_future_changes_nothing_before(kind):
    model, ids_BT = make(kind), text()
    with torch.no_grad():
        before_BTV, _ = model(ids_BT)
        for at in range(1, ids_BT.shape[1]):
            changed_BT = ids_BT.clone()
            changed_BT[:, at:] = text(seed=9)[:, at:]
            after_BTV, _ = model(changed_BT)
            assert gap(after_BTV[:, :at], before_BTV[:, :at]) < 1e-5
            moved = (after_BTV[:, at] != before_BTV[:, at]).any(-1)
            assert torch.equal(moved, changed_BT[:, at] != ids_BT[:, at]), "a token is not seen where it stands"


@EVERY
@settings(deadline=None, max_examples=15)
@given(cuts=st.sets(st.integers(1, 16)))
def test_reading_in_pieces_is_reading_in_one_go(kind, cuts):
    model, ids_BT = make(kind), text()
    sizes = np.diff([0, *sorted(cuts), 17]).tolist()
    whole_BTV, whole = in_pieces(model, ids_BT, [17])
    pieces_BTV, pieces = in_pieces(model, ids_BT, sizes)
    assert gap(pieces_BTV, whole_BTV) < 2e-5
    after = text(seed=3)[:, :2]
    assert gap(model(after, pieces)[0], model(after, whole)[0]) < 2e-5


@EVERY
def test_one_token_at_a_time_trains_as_it_evaluates(kind):
    """The path of one token, taken without a gradient alone, gives what the path of many gives."""
    model = make(kind, dropout=0.0)
    one, _ = in_pieces(model, text(), [1] * 17)
    state, many = None, []
    for token_B1 in text().split(1, 1):
        logits_B1V, state = model.train()(token_B1, state)
        many.append(logits_B1V)
    assert gap(one, torch.cat(many, 1)) < 2e-5


@EVERY
def test_a_cleared_row_is_a_fresh_start_and_the_others_are_not_touched(kind):
    model = make(kind)
    _, state = in_pieces(model, text(4, 9), [9])
    rows_B = torch.tensor([True, False, True, False])
    after = text(4, 8, seed=5)
    with torch.no_grad():
        cleared, _ = model(after, model.restart(state, rows_B))
        fresh, _ = model(after, None)
        went_on, _ = model(after, state)
    assert gap(cleared[rows_B], fresh[rows_B]) < 1e-5
    assert gap(cleared[~rows_B], went_on[~rows_B]) < 1e-5
    assert gap(went_on[rows_B], fresh[rows_B]) > 1e-3, "the state carries nothing"


@EVERY
def test_a_fresh_row_of_columns_reads_as_from_bos(kind):
    """End to end: a restarted row scores as a text of its own, up to the next batch."""
    model = make(kind)
    state = None
    seen = 0
    for batch in list(Columns(random_stream(300, V), 4, 6, seed=1, restart=0.3).epoch(0)):
        with torch.no_grad():
            if batch.fresh_B is not None:
                carried = model.restart(state, batch.fresh_B)
                rows = batch.ids_BT[batch.fresh_B]
                assert (rows[:, 0] == BOS).all()
                assert gap(model(batch.ids_BT, carried)[0][batch.fresh_B], model(rows)[0]) < 1e-5
                seen += len(rows)
            else:
                carried = state if batch.carry else None
            _, state = model(batch.ids_BT, carried)
    assert seen > 3


@EVERY
def test_detached_states_have_no_graph_and_select_copies(kind):
    model = make(kind)
    _, state = model(text(3, 4))
    assert not any(tensor.requires_grad for tensor in state.detach().tensors)
    chosen = state.select(torch.tensor([2, 0, 2]))
    logits, _ = model(text(3, 4), chosen)
    assert gap(logits[0], model(text(3, 4)[:1], state.select(torch.tensor([2])))[0][0]) < 1e-5


@EVERY
def test_loss_is_the_sum_over_the_tokens_of_what_forward_says(kind):
    model = make(kind)
    ids_BT, targets_BT = documents([[5, 6, 7], [], [8, 4, 9, 9, 10]])
    with torch.no_grad():
        loss, _ = model.loss(ids_BT, targets_BT, None)
        logp_BTV = model(ids_BT)[0].log_softmax(-1)
    by_hand = -sum(
        logp_BTV[row, at, target].item()
        for row, targets_T in enumerate(targets_BT.tolist())
        for at, target in enumerate(targets_T)
        if target != IGNORE
    )
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


@EVERY
def test_padding_on_the_right_changes_neither_loss_nor_gradient(kind):
    model = make(kind, dropout=0.0)
    texts = [[5, 6, 7], [], [8, 4, 9, 9, 10]]
    found = []
    for width in (None, 9, 30):
        model.zero_grad()
        loss, _ = model.loss(*documents(texts, width), None)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append((loss.item(), gradient))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        assert (gradient - found[0][1]).norm() < 1e-4 * found[0][1].norm()


@EVERY
def test_only_the_first_eos_of_a_padded_row_counts(kind):
    """A text, <eos>, then padding: the loss is that of the text and one <eos>, whatever the padding reads."""
    model = make(kind)
    with torch.no_grad():
        alone, _ = model.loss(*documents([[5, 6, 7]]), None)
        ids_BT, targets_BT = documents([[5, 6, 7]], 8)
        padded, _ = model.loss(ids_BT, targets_BT, None)
        ids_BT[:, 4:] = EOS
        reading_eos, _ = model.loss(ids_BT, targets_BT, None)
    assert int((targets_BT == EOS).sum()) == 1
    assert padded.item() == pytest.approx(alone.item(), rel=1e-5)
    assert reading_eos.item() == pytest.approx(alone.item(), rel=1e-5)


@EVERY
def test_documents_cost_the_same_alone_and_padded_together_by_lines(kind):
    model = make(kind)
    store = of_documents([[5, 6, 7], [], [8, 4, 9, 9, 10], [11] * 14, [4]], V)
    with torch.no_grad():
        together = sum(model.loss(b.ids_BT, b.targets_BT, None)[0].item() for b in Lines(store, 5, 64).epoch(0))
        alone = sum(model.loss(b.ids_BT, b.targets_BT, None)[0].item() for b in Lines(store, 1, 64).epoch(0))
        scored = sum(
            -model.logp(torch.from_numpy(store.document(i)[None, 1:].astype(np.int64)), torch.tensor([[True]])).sum()
            for i in range(len(store))
        )
    assert together == pytest.approx(alone, rel=1e-5)
    assert float(scored) == pytest.approx(alone, rel=1e-5)


@EVERY
def test_long_texts_are_scored_in_segments_that_change_nothing(kind, monkeypatch):
    model, ids_BT = make(kind), text(2, 40)
    mask_BT = torch.ones(2, 40, dtype=torch.bool)
    whole_BT = model.logp(ids_BT, mask_BT)
    monkeypatch.setattr(base, "_SEGMENT_FLOATS", 7 * 2 * V)
    assert gap(model.logp(ids_BT, mask_BT), whole_BT) < 2e-5


@EVERY
def test_dropout_only_while_training(kind):
    model = make(kind, dropout=0.5)
    ids_BT = text()
    assert torch.equal(model(ids_BT)[0], model(ids_BT)[0])
    model.train()
    assert not torch.equal(model(ids_BT)[0], model(ids_BT)[0])
    calm = make(kind, dropout=0.0).train()
    assert torch.equal(calm(ids_BT)[0], calm(ids_BT)[0])


@EVERY
def test_the_padding_embedding_is_zero_and_stays_so(kind):
    model = make(kind).train()
    ids_BT, targets_BT = documents([[5, 6], []], 6)
    loss, _ = model.loss(ids_BT, targets_BT, None)
    loss.backward()
    assert (model.embedding.weight[PAD] == 0).all()
    assert (model.embedding.weight.grad[PAD] == 0).all()


def test_the_embedding_learns_as_torchs_does():
    table, ids_BT = base.embedding(V, 5), text(4, 30) - 4
    grad_BTE = torch.randn(4, 30, 5)
    table(ids_BT).backward(grad_BTE)
    wanted = torch.ops.aten.embedding_dense_backward(grad_BTE, ids_BT, V, PAD, False)
    assert (ids_BT == PAD).any()
    assert gap(table.weight.grad, wanted) < 1e-5


@EVERY
def test_the_compiled_loss_teaches_what_the_plain_one_does(kind):
    found = []
    for compiled in (True, False):
        model = make(kind)
        with kernels.only(compiled):
            loss, _ = model.loss(*documents([[5, 6, 7], [8]]), None)
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], rel=2e-6)
    assert (found[0][1] - found[1][1]).norm() < 1e-5 * found[0][1].norm()


@EVERY
def test_bf16_is_close_also_where_a_single_token_follows(kind):
    model, ids_BT = make(kind), text()
    state, nats = None, 0.0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for piece_BT in ids_BT.split([8, 8, 1], 1):
            loss, state = model.loss(piece_BT, piece_BT, state)
            nats += loss.item()
    with torch.no_grad():
        assert nats == pytest.approx(model.loss(ids_BT, ids_BT, None)[0].item(), rel=0.03)


def test_starting_with_no_prompts_is_refused():
    with pytest.raises(UsageError, match="start was given no prompts"):
        make("gru").start([])


def test_states_are_joined_row_by_row():
    joined = TensorState.cat([TensorState((torch.ones(1, 2),)), TensorState((torch.zeros(2, 2),))])
    assert joined.tensors[0].tolist() == [[1, 1], [0, 0], [0, 0]]


# -- keeping ----------------------------------------------------------------------------------------------------------


@EVERY
def test_saved_and_loaded_it_is_the_same_model_in_evaluation(kind, tmp_path):
    model = make(kind)
    model.save(tmp_path)
    loaded = type(model).load(tmp_path, model.settings, V)
    assert not loaded.training
    assert torch.equal(loaded(text())[0], model(text())[0])
    assert loaded.parameter_count == model.parameter_count == sum(t.numel() for t in model.state_dict().values())
    assert loaded.nbytes == 4 * loaded.parameter_count


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    path.write_bytes(b"")


def overwritten(path):
    path.write_bytes(b"\x80\x04\x95 a pickle it is not" * 20)


def without_a_tensor(path):
    tensors = load_file(path)
    del tensors["embedding.weight"]
    save_file(tensors, path)


def with_one_too_many(path):
    save_file({**load_file(path), "more": torch.zeros(1)}, path)


def of_another_shape(path):
    save_file({name: tensor[:1].clone() for name, tensor in load_file(path).items()}, path)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        truncated,
        emptied,
        overwritten,
        without_a_tensor,
        with_one_too_many,
        of_another_shape,
        a_folder,
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path, damage):
    model = make("cnn")
    model.save(tmp_path)
    damage(tmp_path / "model.safetensors")
    told = r"model\.safetensors (cannot be read \(.+\)|is not of this configuration \(.+\)|is no regular file): .+$"
    with pytest.raises(ArtifactError, match=told) as caught:
        type(model).load(tmp_path, model.settings, V)
    assert "\n" not in str(caught.value)


def test_weights_of_other_settings_are_refused(tmp_path):
    make("lstm").save(tmp_path)
    other = make("lstm", hidden=8)
    with pytest.raises(ArtifactError, match=r"\(output.weight is float32 \(12, 9\), wanted is float32 \(12, 8\)\)"):
        type(other).load(tmp_path, other.settings, V)
    with pytest.raises(ArtifactError, match="is not of this configuration"):
        type(other).load(tmp_path, make("lstm").settings, V + 1)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "cnn", "transformer"])
def test_a_configuration_larger_than_the_machine_is_refused_before_it_is_built(tmp_path, name):
    """A forged configuration would take hundreds of terabytes."""
    make(name).save(tmp_path)
    width = {"lstm": "hidden", "gru": "hidden", "rnn": "hidden", "cnn": "channels", "transformer": "width"}[name]
    huge = dataclasses.replace(make(name).settings, **{width: 60_000, "layers": 200})
    with pytest.raises(ArtifactError, match="is not of this configuration"):
        type(make(name)).load(tmp_path, huge, V)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_found(value):
    model = make("lstm")
    model.check()
    with torch.no_grad():
        model.output.weight[1, 2] = value
    with pytest.raises(ArtifactError, match=r"NaN or infinite \(output.weight\): train it again$"):
        model.check()
