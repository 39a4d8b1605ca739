"""The benchmark of classifiers: its splits, its paired tests and its vote, on texts and answers of its own."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import classify


@pytest.fixture
def news(tmp_path, monkeypatch):
    with (tmp_path / "ag_news_test.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([1 + n % 4, f"title {n}", f"text {n}"] for n in range(40))
    monkeypatch.setenv("LMLAB_DATA", str(tmp_path))
    monkeypatch.setattr(classify, "SIZES", {"train": 20, "valid": 10, "test": 10})
    classify.corpus.cache_clear()
    yield classify.corpus
    classify.corpus.cache_clear()


def test_splits_share_no_text_and_each_seed_has_labels_of_its_own(news):
    splits = news().splits
    assert {split: len(part) for split, part in splits.items()} == {"train": 20, "valid": 10, "test": 10}
    assert len({text for part in splits.values() for text in part.texts}) == 40
    assert ("title 5 ; text 5", "Sports") in [pair for part in splits.values() for pair in part]
    drawn = [set(news(5, seed).splits["train"]) for seed in range(4)]
    assert set.union(*drawn) == set(splits["train"])
    assert news(5, 3).splits["test"] == splits["test"]


def test_a_difference_comes_with_its_interval_and_mcnemars_test():
    ours = np.array([[True] * 90 + [False] * 10])
    theirs = np.array([[True] * 80 + [False] * 20])
    assert classify.paired(ours, theirs).startswith("+0.100 (+0.050 to +0.160")
    assert classify.mcnemar(ours, theirs) == "0.002"  # 2 / 2**10
    assert classify.mcnemar(ours, ours) == "1"
    assert classify.paired(np.concatenate([ours, theirs]), theirs).startswith("+0.050 (")
    assert classify.mcnemar(np.concatenate([ours, theirs]), theirs) == "0.002, 1"


def test_a_vote_is_the_mean_and_right_is_told_by_text(news):
    labels = news().splits["valid"].labels
    sure = {split: np.full((10, 4), 0.1) + 0.6 * np.eye(4)[[classify.CLASSES.index(y) for y in labels]]
            for split in ("valid", "test")}  # fmt: skip
    flat = {split: np.full((10, 4), 0.25) for split in ("valid", "test")}
    voted = classify.together([sure, flat])
    assert classify.right([voted, flat], "valid")[0].all()
    np.testing.assert_allclose(voted["valid"].sum(1), 1)
    assert (
        classify.nats([voted], "valid").mean() < classify.nats([sure], "valid").mean()
    )  # calibrated: it is always right
