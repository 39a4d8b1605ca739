"""Shapes: B rows, T positions, N ids of the whole store."""

import itertools
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlab.corpora.document import Document
from lmlab.errors import EmptyDataError, SettingError
from lmlab.tokens import batches as module
from lmlab.tokens import build_tokenizer
from lmlab.tokens.batches import Columns, Lines, Windows, _Shuffle
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, EOS, IGNORE, PAD
from tests.stores import numbered, of_documents, random_stream

WAYS = {
    "columns": lambda store, seed: Columns(store, 3, 5, seed, restart=0.2),
    "lines": lambda store, seed: Lines(store, 3, 7, seed),
    "budget": lambda store, seed: Lines(store, 3, 7, seed, budget=20),
    "unbucketed": lambda store, seed: Lines(store, 3, 7, seed, bucket=False),
    "windows": lambda store, seed: Windows(store, 3, 7, seed),
}
LENGTHS = [3, 0, 12, 7, 1, 25, 6, 8, 2, 2, 9]
lengths = st.lists(st.integers(0, 40), min_size=1, max_size=30)


def pairs(batches, epoch=0):
    """How often each (read, predicted) pair comes in an epoch, unpredicted positions left out."""
    count = Counter()
    for batch in batches.epoch(epoch):
        seen_BT = batch.targets_BT != IGNORE
        count.update(zip(batch.ids_BT[seen_BT].tolist(), batch.targets_BT[seen_BT].tolist(), strict=True))
    return count


def all_pairs(store):
    ids = store.ids.tolist()
    return Counter((a, b) for a, b in itertools.pairwise(ids) if b != BOS)


def predicted(batches, epoch=0):
    """How often each token is predicted in an epoch."""
    targets = torch.cat([batch.targets_BT.flatten() for batch in batches.epoch(epoch)])
    return Counter(targets[targets != IGNORE].tolist())


def all_predicted(store):
    return Counter(id for id in store.ids.tolist() if id != BOS)


def same(one, other):
    fresh = (one.fresh_B is None) == (other.fresh_B is None)
    if fresh and one.fresh_B is not None:
        fresh = torch.equal(one.fresh_B, other.fresh_B)
    return (
        fresh
        and one.carry == other.carry
        and torch.equal(one.ids_BT, other.ids_BT)
        and torch.equal(one.targets_BT, other.targets_BT)
    )


@pytest.mark.parametrize("way", WAYS)
def test_neither_bos_nor_padding_is_ever_predicted(way):
    batches = WAYS[way](numbered(LENGTHS), 0)
    for epoch in range(3):
        for batch in batches.epoch(epoch):
            assert not torch.isin(batch.targets_BT, torch.tensor([BOS, PAD])).any()
            assert batch.tokens == int((batch.targets_BT >= 0).sum())
            assert batch.ids_BT.dtype == batch.targets_BT.dtype == torch.int64


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_is_the_same_whenever_it_is_asked_for(way):
    store = numbered(LENGTHS)
    one, other = WAYS[way](store, 4), WAYS[way](store, 4)
    for epoch in (2, 0):
        in_order = list(one.epoch(epoch))
        again = other.epoch(epoch)
        assert len(again) == len(in_order)
        for index in reversed(range(len(again))):
            assert same(again[index], in_order[index])
        with pytest.raises(IndexError):
            again[len(again)]


@pytest.mark.parametrize("way", WAYS)
def test_another_seed_and_another_epoch_give_other_batches(way):
    store = numbered(LENGTHS)
    first, later, other = WAYS[way](store, 4).epoch(0), WAYS[way](store, 4).epoch(1), WAYS[way](store, 5).epoch(0)
    assert not all(map(same, first, later))
    assert not all(map(same, first, other))


@pytest.mark.parametrize("way", WAYS)
def test_a_store_on_disk_gives_the_same_batches_and_is_not_written_to(way, tmp_path):
    tokenizer = build_tokenizer("byte", {}, [])
    documents = [Document("to be or not to be " * n) for n in (1, 3, 2)]
    opened = TokenStore.build(tmp_path / "tokens", tokenizer, documents)
    before = opened.ids.tolist()
    in_memory = WAYS[way](TokenStore.from_documents(tokenizer, documents), 1).epoch(0)
    assert all(map(same, WAYS[way](opened, 1).epoch(0), in_memory))
    assert opened.ids.tolist() == before


# -- the order --------------------------------------------------------------------------------------------------------


def shuffled(total, seed):
    return _Shuffle(total, np.random.default_rng(seed))(np.arange(total)).tolist()


@given(st.integers(1, 3000), st.integers(0, 9))
def test_an_order_has_everything_once_and_asking_for_some_gives_the_same(total, seed):
    order = shuffled(total, seed)
    assert sorted(order) == list(range(total))
    places = np.random.default_rng(0).integers(total, size=5)
    assert _Shuffle(total, np.random.default_rng(seed))(places).tolist() == [order[place] for place in places]


@pytest.mark.parametrize("total", [3, 4, 5])
def test_the_orders_of_few_things_are_equally_likely(total):
    draws, orders = 4000, math.factorial(total)
    count = Counter(tuple(shuffled(total, seed)) for seed in range(draws))
    assert len(count) == orders
    statistic = sum((seen - draws / orders) ** 2 for seen in count.values()) * orders / draws
    assert statistic < orders - 1 + 4 * (2 * (orders - 1)) ** 0.5


def test_neighbours_in_the_order_of_many_things_have_nothing_to_do_with_each_other():
    order = np.array(shuffled(100_000, 1))
    other = np.array(shuffled(100_000, 2))
    for one, two in ((order, np.arange(100_000)), (order[1:], order[:-1]), (order[317:], order[:-317]), (order, other)):
        assert abs(np.corrcoef(one, two)[0, 1]) < 4 / 100_000**0.5
    steps = np.diff(order)
    assert (abs(steps) < 100).sum() < 2 * 200
    assert len(set(steps.tolist())) > 50_000


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_kept_of_a_token_or_a_document(way, monkeypatch):
    monkeypatch.setattr(module, "_OFFSETS_READ", 1000)
    WAYS[way](numbered(LENGTHS), 0).epoch(0)[0]  # what is imported late is no matter
    store = of_documents([[5, 6, 7]] * 50_000)
    tracemalloc.start()
    epoch = WAYS[way](store, 0).epoch(0)
    epoch[len(epoch) // 2]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(store)


# -- columns ----------------------------------------------------------------------------------------------------------


@given(lengths, st.integers(1, 6), st.integers(1, 9), st.integers(0, 3))
def test_columns_predict_each_token_once_up_to_the_remainder(sizes, rows, length, epoch):
    store = numbered(sizes)
    batches = Columns(store, rows, length)
    assert not predicted(batches, epoch) - all_predicted(store)
    shape = batches.epoch(0)[0].ids_BT.shape
    slots = len(batches.epoch(epoch)) * shape.numel()
    missing = len(store.ids) - 1 - slots
    assert 0 <= missing < shape[0] * shape[1] + shape[0]


@given(lengths, st.integers(1, 6), st.integers(1, 9))
def test_an_unrolled_epoch_leaves_less_than_a_token_a_row(sizes, rows, length):
    store = numbered(sizes)
    batches = Columns(store, rows, length, roll=False)
    left = all_predicted(store) - predicted(batches)
    assert not predicted(batches) - all_predicted(store)
    assert sum(left.values()) < len(batches.epoch(0)[0].ids_BT)
    assert torch.equal(batches.epoch(0)[0].ids_BT, batches.epoch(7)[0].ids_BT)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_a_column_reads_the_stream_without_a_gap(epoch):
    store = numbered(LENGTHS)
    batches = list(Columns(store, 3, 5, seed=2).epoch(epoch))
    read_BN = torch.cat([batch.ids_BT for batch in batches], 1)
    wanted_BN = torch.cat([batch.targets_BT for batch in batches], 1)
    doubled = np.concatenate([store.ids, store.ids]).astype(np.int64)
    start = next(i for i in range(len(store.ids)) if (doubled[i + 1 : i + 15] == read_BN[0, 1:15].numpy()).all())
    column = (len(store.ids) - 1) // 3
    for row in range(3):
        at = (start + row * column) % len(store.ids)
        stream = doubled[at : at + read_BN.shape[1] + 1]
        assert read_BN[row].tolist() == [BOS, *stream[1:-1]], "read from <bos>, then as the text goes"
        assert wanted_BN[row].tolist() == [IGNORE if id == BOS else id for id in stream[1:]]
    assert [batch.carry for batch in batches] == [False] + [True] * (len(batches) - 1)


def test_a_fresh_row_reads_bos_and_predicts_what_it_would_have():
    store = random_stream(6000, 30)
    plain, restarted = Columns(store, 8, 5, seed=1), Columns(store, 8, 5, seed=1, restart=0.1)
    fresh = 0
    for before, after in zip(plain.epoch(0), restarted.epoch(0), strict=True):
        assert torch.equal(before.targets_BT, after.targets_BT)
        changed_B = torch.zeros(8, dtype=torch.bool) if after.fresh_B is None else after.fresh_B
        assert (after.ids_BT[changed_B, 0] == BOS).all()
        kept = after.ids_BT.clone()
        kept[changed_B, 0] = before.ids_BT[changed_B, 0]
        assert torch.equal(kept, before.ids_BT)
        fresh += int(changed_B.sum())
    draws = 8 * len(plain.epoch(0))
    assert abs(fresh / draws - 0.1) < 5 * (0.1 * 0.9 / draws) ** 0.5


def test_the_first_batch_of_an_epoch_begins_in_every_row_and_carries_nothing():
    for restart in (0.0, 1.0):
        batch = Columns(random_stream(100, 30), 4, 5, restart=restart).epoch(2)[0]
        assert (batch.ids_BT[:, 0] == BOS).all()
        assert not batch.carry
        assert batch.fresh_B is None


def test_every_epoch_begins_other_rows_anew():
    batches = Columns(random_stream(2000, 30), 8, 5, restart=0.3)
    fresh = [[batch.fresh_B.tolist() for batch in batches.epoch(n) if batch.fresh_B is not None] for n in (0, 1)]
    assert fresh[0] != fresh[1]


def test_more_rows_than_text_become_fewer():
    assert Columns(of_documents([[7]]), 16, 64).epoch(0)[0].ids_BT.shape == (1, 2)


@pytest.mark.parametrize("roll", [True, False])
def test_columns_of_no_text_are_refused_in_a_line(roll):
    with pytest.raises(EmptyDataError, match=r"^the split holds 0 tokens, fewer than 2: give it more text$"):
        Columns(of_documents([]), 4, 5, roll=roll)


# -- lines ------------------------------------------------------------------------------------------------------------


@given(lengths, st.integers(1, 5), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 2))
def test_lines_predict_every_token_once(sizes, rows, length, budgeted, bucket, epoch):
    store = numbered(sizes)
    lines = Lines(store, rows, length, budget=rows * length if budgeted else None, bucket=bucket)
    assert pairs(lines, epoch) == all_pairs(store)
    for batch in lines.epoch(epoch):
        assert not batch.carry
        assert batch.ids_BT.shape[1] <= length
        assert len(batch.ids_BT) <= rows or budgeted
        assert batch.ids_BT.numel() <= rows * length


def test_a_long_document_is_cut_and_goes_on_where_it_stopped():
    store = of_documents([range(10, 19)])
    rows = [
        (batch.ids_BT[0].tolist(), batch.targets_BT[0].tolist()) for batch in Lines(store, 1, 4, bucket=False).epoch(0)
    ]
    assert sorted(rows) == [
        ([BOS, 10, 11, 12], [10, 11, 12, 13]),
        ([13, 14, 15, 16], [14, 15, 16, 17]),
        ([17, 18], [18, EOS]),
    ]


def test_padding_stands_right_of_the_first_eos():
    for batch in Lines(numbered(LENGTHS), 4, 64).epoch(0):
        for ids_T, targets_T in zip(batch.ids_BT, batch.targets_BT, strict=True):
            end = targets_T.tolist().index(EOS)
            assert (targets_T[end + 1 :] == IGNORE).all()
            assert (ids_T[end + 1 :].tolist() or [EOS])[0] == EOS
            assert (ids_T[end + 2 :] == PAD).all()


def filling(lines):
    batches = list(lines.epoch(0))
    return sum(batch.ids_BT.numel() for batch in batches) / sum(batch.tokens for batch in batches)


def test_bucketing_leaves_hardly_any_padding():
    sizes = np.random.default_rng(0).lognormal(3, 0.8, 2000).astype(int).clip(1, 200)
    store = of_documents([[5] * n for n in sizes])
    assert filling(Lines(store, 16, 256)) < 1.1
    assert filling(Lines(store, 16, 256, budget=1024)) < 1.1
    assert filling(Lines(store, 16, 256, bucket=False)) > 1.5


def test_a_budget_is_used_up():
    sizes = np.random.default_rng(0).integers(1, 100, 500)
    lines = Lines(of_documents([[5] * n for n in sizes]), 1, 128, budget=1000)
    cells = [batch.ids_BT.numel() for batch in lines.epoch(0)]
    assert max(cells) <= 1000
    assert np.mean(cells) > 900


def test_bucketed_batches_do_not_come_in_order_of_length():
    widths = [batch.ids_BT.shape[1] for batch in Lines(numbered(range(1, 90)), 3, 100).epoch(0)]
    assert widths != sorted(widths)


def test_a_budget_below_a_row_is_refused():
    with pytest.raises(
        SettingError, match=r"^batch_tokens is 10, but must be at least the length of the longest row, 11"
    ):
        Lines(numbered([3]), 4, 11, budget=10)


def test_lines_of_no_documents_are_refused():
    with pytest.raises(EmptyDataError, match="the split holds no documents"):
        Lines(of_documents([]), 4, 5)


# -- windows ----------------------------------------------------------------------------------------------------------


@given(lengths, st.integers(1, 4), st.integers(1, 9))
def test_windows_predict_each_token_once_up_to_the_remainder(sizes, rows, length):
    store = numbered(sizes)
    if len(store.ids) <= length:
        with pytest.raises(EmptyDataError, match=r"fewer than a window of .* smaller train\.length"):
            Windows(store, rows, length)
        return
    windows = Windows(store, rows, length)
    left = all_pairs(store) - pairs(windows)
    assert not pairs(windows) - all_pairs(store)
    assert sum(left.values()) < length
    assert all(not batch.carry and batch.ids_BT.shape[1] == length for batch in windows.epoch(0))


def test_a_stride_makes_windows_overlap():
    store = numbered([20])
    starts = sorted(int(row[0]) for batch in Windows(store, 4, 6, stride=3).epoch(0) for row in batch.ids_BT)
    assert starts == sorted(store.ids[0 : 22 - 6 : 3].tolist())
