"""Two small runs and some texts that every test of the command line may read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmlab.cli import main
from tests.cli.calls import tiny
from tests.texts import TEXT, some_text


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/lstm, runs/kn3, poem.txt and held-out.txt; not to be written into."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "poem.txt").write_text(TEXT, encoding="utf-8")
    (folder / "held-out.txt").write_text(some_text(20, seed=1), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMLAB_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert main(["train", "poem.txt", "--quiet", "--json", "-o", "runs/lstm", *tiny()]) == 0
        assert (
            main(["train", "poem.txt", "--tokenizer", "word", "--order", "3", "--quiet", "--json", "-o", "runs/kn3"])
            == 0
        )
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own working folder in which the runs and texts are found by name."""
    for name in ("poem.txt", "held-out.txt"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "runs").mkdir()
    for name in ("lstm", "kn3"):
        (tmp_path / "runs" / name).symlink_to(trained / "runs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")  # the width of tables, whatever terminal runs the tests
    return tmp_path
