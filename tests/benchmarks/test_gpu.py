"""The GPU script: all of it on the processor at a size of seconds, and, where there is one, on a GPU."""

import json
import math

import pytest
import torch

import gpu

QUICK = ["--quick", "--rounds", "1", "--seconds", "0.01", "--only", "lstm"]
CHECK = {"what": "a difference", "family": "lstm", "figure": 2e-5, "bound": 1e-4, "holds": True}
FOUND = {
    "card": "A Card, 80 GiB",
    "began": "2026-11-27",
    "speeds": {
        "lstm": {
            "plain fp32": [100.0, 300.0, 200.0], "ours fp32": [500.0, 300.0, 400.0],
            "plain bf16": [1000.0], "ours bf16": [1500.0], "parameters": [1000, 2000],
        },
        "cnn": {"plain fp32": [10.0], "ours fp32": [5.0], "parameters": [1000, 2000]},
    },
    "decoding": {"lstm": {"cpu, 1 text": 1234.0}, "cnn": {"cpu, 1 text": 5.0}},
    "checks": [CHECK],
    "protocol": "Protocol: none.",
}  # fmt: skip


def test_it_goes_through_everything_without_a_gpu(tmp_path, capsys):
    assert gpu.main([*QUICK, "--device", "cpu", "-o", str(tmp_path / "kept")]) == 0
    *_, figures, page = capsys.readouterr().out.splitlines()
    assert (figures, page) == (str(tmp_path / "kept" / "gpu.json"), str(tmp_path / "kept" / "gpu.md"))
    found = json.loads((tmp_path / "kept" / "gpu.json").read_text())
    speeds = found["speeds"]["lstm"]
    assert set(speeds) == {"plain fp32", "ours fp32", "plain bf16", "ours bf16", "parameters"}
    assert all(min(figures) > 0 for figures in speeds.values())
    assert speeds["parameters"][0] == pytest.approx(speeds["parameters"][1], rel=0.1)  # of like size
    figures = {check["what"].partition(",")[0]: check["figure"] for check in found["checks"]}
    assert len(found["checks"]) == 6
    assert figures.pop("bf16") != 0
    assert set(figures.values()) == {
        0.0
    }  # on one and the same machine everything repeats, resumes and averages exactly
    assert (tmp_path / "kept" / "gpu.md").read_text() == gpu.markdown(found)


def test_the_tables_give_medians_ratios_and_verdicts():
    page = gpu.markdown({**FOUND, "checks": [CHECK, CHECK | {"figure": 0.5, "holds": False}]})
    assert "| lstm | 1 k · 2 k | 200 | 400 | 2.00 | 1 k | 1.5 k | 1.50 |" in page
    assert "| cnn | 1 k · 2 k | 10 | 5 | 0.50 | - | - | - |" in page
    assert "| lstm | 1.23 k |" in page
    assert "| a difference | lstm | 2e-05 | 0.0001 | yes |" in page
    assert "| a difference | lstm | 0.5 | 0.0001 | NO |" in page
    assert page.startswith("# On a GPU\n\nA Card, 80 GiB; 2026-11-27.")


@pytest.mark.parametrize("holds", [True, False])
def test_what_does_not_hold_is_a_failure_and_is_kept(tmp_path, monkeypatch, holds):
    found = {**FOUND, "checks": [CHECK, CHECK | {"holds": holds}]}
    monkeypatch.setattr(gpu, "measured", lambda asked: found)
    assert gpu.main(["--device", "cpu", "-o", str(tmp_path)]) == (not holds)
    assert json.loads((tmp_path / "gpu.json").read_text()) == found


def test_a_bound_is_a_bound():
    assert [gpu.Check("", "", figure, 0.5).holds for figure in (-1, 0.5, 0.51, math.nan)] == [True, True, False, False]


def test_the_furthest_of_all_numbers_counts_in_any_direction():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    assert gpu.furthest(one, {"a": torch.tensor([1.0, 1.5]), "b": torch.tensor([3.25])}) == 0.5
    assert gpu.furthest(one, {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.75])}) == 0.75


def test_a_rate_leaves_out_the_first_fifth():
    clock = gpu.Clock()
    clock.seen = [(100 * n, 1.0 * n) for n in range(2, 10)] + [(2900, 10.0)]
    clock.seen[0] = (0, -1000.0)  # the first step compiles
    assert clock.rate == pytest.approx((2900 - 300) / (10 - 3))


def test_without_a_gpu_it_says_so_in_one_line_and_ends_well(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["-o", str(tmp_path / "kept")]) == 0
    assert capsys.readouterr().out == "benchmarks/gpu.py: skipped, there is no GPU that torch can use\n"
    assert not (tmp_path / "kept").exists()


@pytest.mark.gpu
def test_it_goes_through_everything_on_a_gpu(tmp_path):
    arguments = [word for word in QUICK if word not in ("--only", "lstm")]
    gpu.main([*arguments, "-o", str(tmp_path)])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [check for check in found["checks"] if not check["holds"]] == []
    assert {check["family"] for check in found["checks"]} == {"lstm", "transformer", "cnn"}
