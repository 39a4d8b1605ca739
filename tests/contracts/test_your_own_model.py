"""The guide's model as a package of its own: installed, held to the laws, trained, scored, resumed."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lmlab

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "your-own-model.md"
RESUME = """
import signal
from pathlib import Path

import lmlab

asked = []

def stop(event):
    if event.step >= 4 and not asked:
        asked.append(event)
        signal.raise_signal(signal.SIGINT)

Path("poem.txt").write_text("the cat sat on the mat. the dog sat on the log. " * 60)
settings = {"model": "mingru", "hidden": 8, "steps": 8, "baseline": False, "precision": "fp32", "threads": 1}
lmlab.train("poem.txt", out="whole", **settings)
assert lmlab.train("poem.txt", out="broken", listeners=[stop], **settings).manifest["status"] == "interrupted"
assert lmlab.resume("broken").manifest["status"] == "done"
weights = [Path(run, "model.safetensors").read_bytes() for run in ("whole", "broken")]
assert weights[0] == weights[1], "the resumed run ended with other weights"
"""
MINUTES = """
from pathlib import Path

import lmlab

text = "the cat sat on the mat. the dog sat on the log. " * 60
lm = lmlab.train(text=text, tokenizer="char", model="mingru", minutes=0.02, layers=1)
assert lm.model.settings.hidden in (64, 128, 256, 512, 1024) and lm.model.settings.layers == 1
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the guide's files, and what an installer would have written of its entry points."""
    folder = tmp_path_factory.mktemp("package")
    text = GUIDE.read_text(encoding="utf-8")
    files = re.findall(r"^```(?:python|toml) (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for name, content in files:
        (folder / name).write_text(content, encoding="utf-8")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def run(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{package}:{Path(lmlab.__file__).parents[1]}")

    def python(*arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return python


def test_it_obeys_the_laws_trains_scores_and_generates(package, run):
    run(str(package / "use.py"))


def test_it_resumes_to_the_same_weights(run):
    run("-c", RESUME)


def test_a_run_of_given_minutes_chooses_its_size(run):
    run("-c", MINUTES)


def test_it_is_listed_beside_the_models_built_in(run):
    listed = json.loads(run("-m", "lmlab", "info", "--json"))["models"]
    assert {"mingru", "lstm"} <= set(re.split(r"\W+", listed if isinstance(listed, str) else " ".join(listed)))


def test_it_is_as_short_as_promised(package):
    lines = (package / "mingru.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 50
