"""Killed at any moment, a run goes on to the very weights that it would have had."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from lmlab.training.checkpoint import newest

pytestmark = pytest.mark.slow

ROUNDS = 10  # each run is killed twice
STEPS = 500
SETTINGS = {
    "model.hidden": 48,
    "model.layers": 2,
    "model.embedding": 8,
    "train.batch_size": 8,
    "train.length": 32,
    "train.accumulate": 2,
    "train.evaluations": 40,
    "train.threads": 1,
    "train.precision": "fp32",
    "train.baseline": "false",
}


def command(*words):
    return [sys.executable, "-m", "lmlab.cli", "train", *map(str, words), "--quiet"]


def train(text, out):
    named = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    return command(text, "--model", "lstm", "--steps", STEPS, "--seed", 3, "-o", out, *named)


def start(words):
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def killed(process, folder, step, after):
    """Kill so many seconds after a checkpoint of that step or a later one is there; whether it was still alive."""
    while process.poll() is None and last_step(folder) < step:
        time.sleep(0.002)
    time.sleep(after)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert alive or process.returncode == 0, said.decode()
    return alive


def last_step(folder):
    """The step of the last checkpoint, read off the names alone; -1 if there is none."""
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*")), default=-1)


def finish(words):
    process = start(words)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()


def end(folder):
    """All that must not depend on the kills."""
    found = newest(folder)
    counters = {name: value for name, value in found.counters.items() if name != "seconds"}
    results = json.loads((folder / "manifest.json").read_text())["results"]
    results.pop("train_seconds")
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [(e["event"], e["step"], e.get("train_nats"), e.get("valid_nats")) for e in events if e["event"] != "began"]
    return (folder / "model.safetensors").read_bytes(), found.tensors, counters, results, told


def test_a_killed_run_resumed_is_the_run_that_was_never_killed(tmp_path):
    rng = random.Random(os.environ.get("LMLAB_KILL_SEED", "0"))
    text = tmp_path / "text.txt"
    text.write_text("".join(rng.choices("abcdefgh ,.\n", weights=range(1, 13), k=30_000)))
    whole = tmp_path / "whole"
    finish(train(text, whole))
    weights, tensors, *rest = end(whole)

    kills, moments = 0, []
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        words, first = train(text, folder), rng.randint(0, 300)
        for step in (first, rng.randint(first, STEPS - 60)):
            kills += killed(start(words), folder, step, rng.uniform(0, 0.3))
            found = newest(folder)  # readable, or not yet there
            moments.append(found.counters["step"] if found else None)
            assert not [path for path in folder.glob("checkpoints/step-*") if len(list(path.iterdir())) != 2]
            words = command("--resume", folder)
        finish(words)
        again, again_tensors, *again_rest = end(folder)
        assert again == weights, f"other weights after kills at {moments[-2:]}"
        assert all(torch.equal(tensors[name], again_tensors[name]) for name in tensors | again_tensors)
        assert again_rest == rest
    print(f"{kills} kills of {2 * ROUNDS} struck a living run; the last checkpoints then: {moments}")
    assert kills >= 1.5 * ROUNDS
