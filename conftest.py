"""What every test shares: reproducible examples, one thread, a cache of its own, and which tests a machine must run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from lmlab.training.machine import tune_process

tune_process()  # as the command line does: threads that spin would keep each other waiting on a busy machine

ROOT = Path(__file__).parent
collect_ignore = ["src/lmlab/compat/remote_code/modeling_lmlab.py"]  # exported weights take it along

# A test's examples are the same on every run, and none is judged by the clock: green means green on a busy machine too.
# `pytest --hypothesis-profile explore` draws new ones, and prints how to repeat a failure.
_UNTIMED = {"deadline": None, "print_blob": True, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("explore", **_UNTIMED)
hypothesis.settings.register_profile("repeat", **_UNTIMED, derandomize=True)
hypothesis.settings.load_profile("repeat")


# -- marks ------------------------------------------------------------------------------------------------------------

# Files whose every test has a mark. A test elsewhere is marked by hand.
MARKED = {
    "kernel": ("tests/kernels",),
    "parity": ("tests/golden", "tests/models/ngram/test_lmplz.py", "tests/models/ngram/test_arpa.py"),
}


def _has_bf16_instruction() -> bool:
    """Read from the system and not by our own probe, which the tests are to catch where it is wrong."""
    known = Path("/proc/cpuinfo")
    return known.is_file() and " avx512_bf16" in known.read_text(encoding="utf-8")


def _has_reference_data() -> bool:
    return (Path(os.environ.get("LMLAB_DATA", "/nowhere")) / "kenlm").is_dir()


# With LMLAB_REQUIRE=kernel,parity a test of such a mark that is skipped fails, on a machine that could run it.
COULD_RUN = {
    "kernel": (_has_bf16_instruction, "this processor has AVX512-BF16"),
    "parity": (_has_reference_data, "LMLAB_DATA holds the outputs of lmplz"),
}
REQUIRED = tuple(name for name in os.environ.get("LMLAB_REQUIRE", "").split(",") if name)


def pytest_configure(config: pytest.Config) -> None:
    """A misspelt requirement would require nothing."""
    unknown = set(REQUIRED) - set(COULD_RUN)
    if unknown:
        raise pytest.UsageError(f"LMLAB_REQUIRE names {sorted(unknown)}, but only {sorted(COULD_RUN)} can be required")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the files above."""
    for name, places in MARKED.items():
        for item in items:
            if any(item.path.is_relative_to(ROOT / place) for place in places):
                item.add_marker(name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of the GPU says why it is skipped where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no GPU that torch can use")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn the skip of a required test into a failure."""
    report = (yield).get_result()  # type: ignore[misc]
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    for name in REQUIRED:
        could_run, because = COULD_RUN[name]
        if item.get_closest_marker(name) and could_run():
            why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
            report.outcome = "failed"
            report.longrepr = f"skipped ({why}), but LMLAB_REQUIRE names {name}, and {because}"


# -- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are tiny, and two threads waiting for each other on a busy machine take ten times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or leaves anything in the cache of whoever runs it."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("LMLAB_CACHE", str(folder))
    return folder
