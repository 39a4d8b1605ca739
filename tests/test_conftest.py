"""What conftest.py promises: a required test that is skipped fails where it could run, examples repeat."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

ROOT = Path(__file__).parent.parent
SKIPPED = """
import pytest

@pytest.mark.{mark}
@pytest.mark.skipif(True, reason="no reason at all")
def test_marked():
    raise AssertionError("never run")

@pytest.mark.skip(reason="not marked")
def test_other():
    pass
"""


def run(folder: Path, test: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one file of tests beside a copy of conftest.py, with lmlab's own settings of pytest but for one process."""
    shutil.copy(ROOT / "conftest.py", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests" / "test_it.py").write_text(test, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n0", "-rs", "-p", "no:cacheprovider", *words]
    known = {name: value for name, value in os.environ.items() if not name.startswith(("LMLAB", "PYTEST"))}
    return subprocess.run(command, cwd=folder, env=known | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A folder that claims to hold the outputs of lmplz."""
    (tmp_path / "data" / "kenlm").mkdir(parents=True)
    return str(tmp_path / "data")


@pytest.mark.parametrize("required", ["", "kernel", "kernel,parity"])
def test_a_skip_fails_where_it_is_required_and_could_run(tmp_path: Path, data: str, required: str) -> None:
    done = run(tmp_path, SKIPPED.format(mark="parity"), LMLAB_REQUIRE=required, LMLAB_DATA=data)
    assert done.returncode == ("parity" in required), done.stdout + done.stderr
    if done.returncode:
        assert "skipped (Skipped: no reason at all), but LMLAB_REQUIRE names parity" in done.stdout
        assert "1 skipped, 1 error" in done.stdout  # pytest's word for what fails before the test's first line
    else:
        assert "2 skipped" in done.stdout


def test_a_skip_is_a_skip_where_it_could_not_run(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPED.format(mark="parity"), LMLAB_REQUIRE="parity", LMLAB_DATA=str(tmp_path / "nowhere"))
    assert (done.returncode, "2 skipped" in done.stdout) == (0, True), done.stdout + done.stderr


def test_files_are_marked_by_their_place(tmp_path: Path, data: str) -> None:
    (tmp_path / "tests" / "models" / "ngram").mkdir(parents=True)
    (tmp_path / "tests" / "models" / "ngram" / "test_lmplz.py").write_text(
        "import pytest\n\n@pytest.mark.skip(reason='x')\ndef test_it(): pass\n"
    )
    asked = {"LMLAB_REQUIRE": "parity", "LMLAB_DATA": data}
    done = run(tmp_path, "def test_it(): pass\n", "tests/models/ngram/test_lmplz.py", "tests/test_it.py", **asked)
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr


def test_a_requirement_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "def test_it(): pass\n", LMLAB_REQUIRE="kernels")
    assert done.returncode == 4
    assert "LMLAB_REQUIRE names ['kernels']" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_test_of_the_gpu_is_left_out_or_says_why_it_is_skipped(tmp_path: Path) -> None:
    test = "import pytest\n\n@pytest.mark.gpu\ndef test_it(): raise AssertionError\n\ndef test_other(): pass\n"
    done = run(tmp_path, test)
    assert (done.returncode, "1 passed, 1 deselected" in done.stdout) == (0, True), done.stdout
    done = run(tmp_path, test, "-m", "gpu")
    assert "there is no GPU that torch can use" in done.stdout
    assert (done.returncode, "1 skipped, 1 deselected" in done.stdout) == (0, True), done.stdout


def test_examples_repeat_and_no_clock_judges_them() -> None:
    now = hypothesis.settings()
    assert (now.deadline, now.derandomize, now.print_blob) == (None, True, True)
    assert hypothesis.HealthCheck.too_slow in now.suppress_health_check
