"""One batch on several workers gives the weights that one alone would have: blocks in threads, processes, a GPU."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.errors import SettingError, UsageError
from lmlab.models.neural.base import TensorState
from lmlab.tokens.batches import Batch, Columns, Lines, Windows
from lmlab.training import checkpoint as checkpoints
from lmlab.training.parallel import Gradients, rows_of
from lmlab.training.ranks import joined
from lmlab.training.stepper import Stepper
from lmlab.vocabulary import IGNORE, PAD
from tests.stores import of_documents
from tests.training.ranks_worker import ACCUMULATED, HALF, NAMED, WAYS
from tests.training.runs import DOCUMENTS, MODELS, STREAM, Clock, V, fit, resumed, same_end, stop_at
from tests.training.runs import settings as train_settings


def last_weights(run):
    """The model as it was after the last step."""
    return checkpoints.newest(run).group("model")


def furthest(one, other):
    """The largest difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# -- how rows are shared ----------------------------------------------------------------------------------------------

WAYS_TO_CUT = {
    "columns": lambda rows: Columns(STREAM, rows, 8, restart=0.3),
    "lines": lambda rows: Lines(DOCUMENTS, rows, 8),
    "windows": lambda rows: Windows(STREAM, rows, 8),
}


def as_wide(batch, width):
    """The batch padded to a width, as lists; of the ids those that something is predicted after."""
    wide = torch.nn.functional.pad(batch.ids_BT, (0, width - batch.ids_BT.shape[1]), value=PAD)
    targets = torch.nn.functional.pad(batch.targets_BT, (0, width - batch.targets_BT.shape[1]), value=IGNORE)
    fresh = torch.zeros(len(wide), dtype=torch.bool) if batch.fresh_B is None else batch.fresh_B
    wide = wide.masked_fill(targets == IGNORE, PAD)
    return list(zip(wide.tolist(), targets.tolist(), fresh.tolist(), strict=True))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(WAYS_TO_CUT)), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2))
def test_the_parts_of_a_batch_are_the_batch(way, rows, parts, index):
    """Laid together, every worker's rows are those of the batch: none twice, none missing; read so or cut so."""
    batches = WAYS_TO_CUT[way](rows)
    whole = batches.epoch(1)[index]
    width = whole.ids_BT.shape[1]
    read = [batches.share(part, parts).epoch(1)[index] for part in range(parts)]
    cut = [whole.rows(part, parts) for part in range(parts)]
    for shared in (read, cut):
        assert [row for part in shared for row in as_wide(part, width)] == as_wide(whole, width)
        assert sum(part.tokens for part in shared) == whole.tokens
        assert all(part.carry == whole.carry for part in shared)
        sizes = [len(part.ids_BT) for part in shared]
        assert max(sizes) - min(sizes) <= 1
    state = TensorState((torch.arange(len(whole.ids_BT)),))
    assert [len(rows_of(state, part, parts).tensors[0]) for part in range(parts)] == [len(part.ids_BT) for part in cut]


# -- blocks in threads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", ["columns", "lines"])
def test_blocks_in_threads_give_the_weights_of_one(tmp_path, model, way):
    for parts in (1, 2):
        fit(tmp_path / str(parts), model, way, row_blocks=parts, **NAMED).go()
    assert furthest(last_weights(tmp_path / "1"), last_weights(tmp_path / "2")) < 1e-5


def test_more_blocks_than_rows_do_no_harm(tmp_path):
    for parts in (1, 7):
        fit(tmp_path / str(parts), way="columns", row_blocks=parts, **NAMED).go()
    assert furthest(last_weights(tmp_path / "1"), last_weights(tmp_path / "7")) < 1e-5


@pytest.mark.parametrize("way", ["columns", "lines"])
def test_blocks_repeat_and_resume_bit_for_bit(tmp_path, way):
    """With dropout, bf16 and two layers: nothing hangs on which thread was first, nor on where the run was stopped."""
    named = {"way": way, "row_blocks": 2, "precision": "bf16", "steps": 40, "accumulate": 2}
    for name in ("one", "other"):
        fit(tmp_path / name, **named).go()
    same_end(tmp_path / "one", tmp_path / "other")
    assert fit(tmp_path / "halted", listeners=[stop_at(17)], **named).go().reason == "interrupted"
    again = resumed(tmp_path / "halted", **{**named, "row_blocks": None})  # it goes on as it was
    assert again.go().progress.row_blocks == 2
    same_end(tmp_path / "one", tmp_path / "halted")


def test_each_block_drops_something_else():
    """Equal rows in two blocks, with dropout: masks of their own, or the run would be that of one block twice."""
    row = torch.randint(4, V, (1, 9), generator=torch.Generator().manual_seed(0))
    batch = Batch(row[:, :-1].repeat(2, 1), row[:, 1:].repeat(2, 1), carry=False)
    gradients = Gradients(fit(dropout=0.5).model, contextlib.nullcontext, row_blocks=2)
    nats = [float(gradients._block(batch.rows(part, 2), None, 1.0, (0, 0, part))[0]) for part in (0, 1)]
    again = float(gradients._block(batch.rows(1, 2), None, 1.0, (0, 0, 1))[0])
    gradients.close()
    assert nats[0] != nats[1] == again


def machine_where(fastest, monkeypatch):
    """A clock on which a step takes half as long in one way to use the cores; and the ways that were tried."""
    tried, step = [], Stepper.step

    def tries(stepper, lr):
        way = stepper.progress.threads, stepper.progress.row_blocks
        tried.extend([way] if lr == 0 and way not in tried else [])
        return step(stepper, lr)

    monkeypatch.setattr(Stepper, "step", tries)
    seconds = lambda progress: 0.01 if (progress.threads, progress.row_blocks) == fastest else 0.02  # noqa: E731
    return Clock(monkeypatch, seconds), tried


@pytest.mark.parametrize("fastest", [(1, 1), (2, 1), (2, 2)])
def test_a_timed_run_takes_the_fastest_way_and_records_it(tmp_path, monkeypatch, two_cores, fastest):
    clock, tried = machine_where(fastest, monkeypatch)
    run = fit(tmp_path / "run", threads=None, steps=None, minutes=0.1, clock=clock)
    run.validation = None
    progress = run.go().progress
    assert sorted(tried) == [(1, 1), (2, 1), (2, 2)]
    assert (progress.threads, progress.row_blocks) == fastest
    counters = checkpoints.newest(tmp_path / "run").counters
    assert (counters["threads"], counters["row_blocks"]) == fastest


@pytest.mark.parametrize("fastest", [(1, 1), (2, 1)])
@pytest.mark.parametrize("budget", [{"steps": 100}, {"steps": None, "epochs": 8.0}])
def test_a_run_of_steps_takes_the_faster_number_of_threads_and_records_it(
    tmp_path, monkeypatch, two_cores, fastest, budget
):
    clock, tried = machine_where(fastest, monkeypatch)
    progress = fit(tmp_path / "run", threads=None, clock=clock, **budget).go().progress
    assert sorted(tried) == [(1, 1), (2, 1)], "blocks would change what is dropped"
    assert (progress.threads, progress.row_blocks) == fastest
    assert resumed(tmp_path / "run", threads=None, **budget).go().progress.threads == fastest[0]


def test_a_way_that_is_hopeless_from_its_first_step_is_tried_no_further(monkeypatch, two_cores):
    """On a busy machine, threads that wait for each other may take a hundred times as long as one."""
    tried = []

    def seconds(progress):
        tried.append(progress.threads)
        return 0.01 if progress.threads == 1 else 0.5

    assert fit(threads=None, steps=300, clock=Clock(monkeypatch, seconds)).go().progress.threads == 1
    assert tried == [1] * (1 + 3) + [2] + [1] * 300


@pytest.mark.parametrize(("named", "way"), [({"steps": 99}, (1, 1)), ({"steps": 100, "threads": 2}, (2, 1))])
def test_a_short_run_and_one_whose_threads_are_named_try_nothing(monkeypatch, two_cores, named, way):
    clock, tried = machine_where((2, 1), monkeypatch)
    progress = fit(**{"threads": None, "clock": clock, **named}).go().progress
    assert (tried, progress.threads, progress.row_blocks) == ([], *way)


# -- accumulation -----------------------------------------------------------------------------------------------------


def test_accumulation_equals_the_large_batch(tmp_path):
    """Two batches of 8 lines make the step that one of 16 makes, though their tokens differ in number."""
    store = of_documents([(4 + torch.arange(3 + n % 6) % 7).tolist() for n in range(64)], V)
    for name, rows, accumulate in (("small", 8, 2), ("large", 16, 1)):
        run = fit(tmp_path / name, accumulate=accumulate, **NAMED)
        run.batches = Lines(store, rows, 8, bucket=False)
        run.go()
    assert furthest(last_weights(tmp_path / "small"), last_weights(tmp_path / "large")) < 1e-5


# -- processes --------------------------------------------------------------------------------------------------------


def torchrun(*words):
    """Two processes on this machine, to their end."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one process and of two, whole, stopped at half, and gone on with by as many or by others."""
    root = tmp_path_factory.mktemp("ranks")
    for name, way in WAYS.items():
        fit(root / f"{name}-one", **way, **NAMED).go()
        fit(root / f"{name}-one-half", listeners=[stop_at(HALF)], **way, **NAMED).go()
    fit(root / "accumulated-one", **ACCUMULATED, **NAMED).go()
    code, _, said = torchrun("-m", "tests.training.ranks_worker", root)
    assert code == 0, said
    for name, way in WAYS.items():
        assert checkpoints.newest(root / f"{name}-two-half").counters["step"] == HALF
        resumed(root / f"{name}-two-half", **way, **NAMED).go()
    return root


@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, how) for name in WAYS for how in ("two", "two-half", "one-half")), ("accumulated", "two")],
)
def test_two_processes_give_the_weights_of_one(runs, name, how):
    """Two from the start; two, then one; one, then two."""
    assert furthest(last_weights(runs / f"{name}-one"), last_weights(runs / f"{name}-{how}")) < 1e-5


@pytest.mark.parametrize("name", WAYS)
def test_two_processes_keep_the_same_books(runs, name):
    """Carried state of all rows, place in the data, tokens, validation of all: in the checkpoint of either."""
    one, two = checkpoints.newest(runs / f"{name}-one"), checkpoints.newest(runs / f"{name}-two")
    assert {key: value.shape for key, value in one.tensors.items()} == {k: v.shape for k, v in two.tensors.items()}
    for counter in ("step", "epoch", "index", "tokens", "best_step", "plan"):
        assert one.counters[counter] == two.counters[counter]
    assert two.counters["best_nats"] == pytest.approx(one.counters["best_nats"], abs=1e-5)


@pytest.mark.slow
def test_the_command_line_under_torchrun(tmp_path):
    """One voice, one folder, and it resumes alone; standard output is the results of the one that speaks."""
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 300)
    named = ["--model", "lstm", "--set", "model.hidden=16", "--set", "train.baseline=false", "--quiet", "--json"]
    code, out, said = torchrun("-m", "lmlab", "train", text, *named, "--steps", 20, "-o", tmp_path / "run")
    assert code == 0, said
    assert json.loads(out)["processes"] == 2
    assert json.loads(out)["status"] == "done"
    code, _, said = torchrun("-m", "lmlab", "train", text, *named, "--steps", 20, "-o", tmp_path / "run")
    assert code != 0
    assert "already exists" in said


# -- a GPU ------------------------------------------------------------------------------------------------------------

gpu = pytest.mark.gpu  # left out unless asked for (`make gpu`), skipped with a reason where there is none


@gpu
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", ["columns", "lines"])
def test_a_gpu_gives_what_the_processor_gives(tmp_path, model, way):
    for device in ("cpu", "cuda"):
        run = fit(tmp_path / device, model, way, device=device, **NAMED)
        run.go()
        assert run.model.device.type == "cpu"
    assert furthest(last_weights(tmp_path / "cpu"), last_weights(tmp_path / "cuda")) < 1e-3


@gpu
def test_a_run_on_a_gpu_resumes_with_dropout_and_bf16(tmp_path):
    named = {"device": "cuda", "precision": "auto"}
    fit(tmp_path / "whole", **named).go()
    fit(tmp_path / "halted", listeners=[stop_at(11)], **named).go()
    resumed(tmp_path / "halted", **named).go()
    assert furthest(last_weights(tmp_path / "whole"), last_weights(tmp_path / "halted")) < 1e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_none_is_used_and_asking_for_one_is_told():
    with pytest.raises(SettingError, match=r"train\.device is 'cuda', but must be cpu or auto"):
        fit(device="cuda").go()
    assert train_settings().device == "auto"
    assert fit(steps=2).go().reason == "done"


@pytest.mark.parametrize(
    "said", [{"RANK": "5"}, {"RANK": "0", "MASTER_PORT": ""}, {"RANK": "x"}, {"WORLD_SIZE": "two", "RANK": "0"}]
)
def test_a_launcher_that_makes_no_sense_is_not_waited_for(said, monkeypatch):
    whole = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
    for name, value in {**whole, **said}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="RANK must be below WORLD_SIZE"), joined():
        pass
