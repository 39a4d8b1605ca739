"""Small runs of training, for tests."""

import signal
from pathlib import Path

import pytest
import torch

from lmlab import registry
from lmlab.kernels import engine
from lmlab.tokens.batches import Columns, Lines, Windows
from lmlab.training import TrainSettings
from lmlab.training import checkpoint as checkpoints
from lmlab.training.events import Stepped
from lmlab.training.fit import Fit
from lmlab.training.machine import torch_borrowed
from lmlab.training.stepper import Stepper
from tests.stores import of_documents, random_stream

V = 12
MODELS = {
    "lstm": {"hidden": 16, "embedding": 4, "layers": 2, "dropout": 0.2, "recurrent_dropout": 0.2},
    "gru": {"hidden": 16, "embedding": 4, "dropout": 0.2},
    "cnn": {"channels": 8, "embedding": 4, "layers": 2, "kernel": 3, "dropout": 0.2},
    "transformer": {"width": 8, "heads": 2, "layers": 1, "window": 6, "dropout": 0.2},
}
STREAM = random_stream(500, V)
DOCUMENTS = of_documents([(4 + torch.arange(3 + n % 9) % 7).tolist() for n in range(30)], V)
HELD_OUT = random_stream(90, V, seed=3)


def cut(way, store=None, seed=0):
    """Batches of a kind over the sample text."""
    if way == "columns":
        return Columns(store or STREAM, 4, 8, seed, restart=0.1)
    if way == "lines":
        return Lines(store or DOCUMENTS, 4, 8, seed)
    return Windows(store or STREAM, 4, 8, seed)


def settings(**named):
    """Settings of a short run on one thread; anything may be named."""
    few = {"steps": 24, "threads": 1, "precision": "fp32", "evaluations": 4, "samples": False, "lr": 0.01}
    return TrainSettings(**{**few, **named})


def fit(run=None, model="lstm", way="columns", seed=0, listeners=(), resume=None, dropout=None, clock=None, **named):
    """A run ready to go, its model freshly made from the seed."""
    train = settings(**named)
    architecture = registry.resolve("model", model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = {n: dropout if "dropout" in n and dropout is not None else v for n, v in MODELS[model].items()}
        network = architecture(architecture.Settings(**shape), V)
    if run is not None:
        Path(run).mkdir(exist_ok=True)
    validation = Columns(HELD_OUT, 4, 16, roll=False).epoch(0)
    made = Fit(network, cut(way, seed=seed), train, seed, run, validation, resume, listeners)
    made.clock = clock or made.clock
    return made


class Clock:
    """A clock that goes on by a tick whenever it is read, and by so many seconds a step of training."""

    def __init__(self, monkeypatch, seconds_a_step=lambda progress: 0.003, tick=0.0):
        self.now, self._tick, step = 0.0, tick, Stepper.step

        def timed_step(stepper, lr):
            self.now += seconds_a_step(stepper.progress)
            return step(stepper, lr)

        monkeypatch.setattr(Stepper, "step", timed_step)

    def __call__(self):
        self.now += self._tick
        return self.now


@pytest.fixture
def two_cores(monkeypatch):
    """Two cores as far as a run knows; in truth one thread an operation, as two wait long for each other under load."""
    monkeypatch.setattr(engine, "cores", lambda: 2)
    with torch_borrowed():
        torch.set_num_threads(1)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "set_num_threads", lambda threads: None)
            yield


def stop_at(step):
    """A listener that presses Ctrl-C when a step is made."""

    def listen(event):
        if isinstance(event, Stepped) and event.step == step:
            signal.raise_signal(signal.SIGINT)

    return listen


def resumed(run, **named):
    """The run of a folder, ready to go on."""
    return fit(run, resume=checkpoints.newest(run), **named)


def weights(run):
    """The bytes of a run's kept weights."""
    return (run / "model.safetensors").read_bytes()


def last(run):
    """A run's last checkpoint: its tensors, and its counters without the time that passed."""
    found = checkpoints.newest(run)
    return dict(found.tensors), {name: value for name, value in found.counters.items() if name != "seconds"}


def same_end(one, other):
    """Whether two runs left the same weights and the same checkpoint, bit for bit."""
    (tensors, counters), (tensors_2, counters_2) = last(one), last(other)
    assert counters == counters_2
    assert tensors.keys() == tensors_2.keys()
    different = [name for name in tensors if not torch.equal(tensors[name], tensors_2[name])]
    assert not different
    assert weights(one) == weights(other)
