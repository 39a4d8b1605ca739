"""lm-evaluation-harness: its own command against our server, and with our models in its process."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.texts import some_text

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")
TASKS = Path(__file__).parent / "lm_eval_tasks"
TEXTS = [some_text(12, seed=7), some_text(5, seed=8), "the cat saw a dog."]
ANIMALS = [
    {"before": "the cat saw", "choices": [" a dog.", " an owl.", " sang to"], "right": 0},
    {"before": "an owl ", "choices": ["sat on a dog", "ran from the cat"], "right": 1},
    {"before": "naïve Zoë wrote", "choices": [" of an owl.", " of the cat."], "right": 1},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks beside their data."""
    folder = tmp_path_factory.mktemp("harness")
    shutil.copytree(TASKS, folder, dirs_exist_ok=True)
    for name, rows in (("animals", ANIMALS), ("poem", [{"text": text} for text in TEXTS])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def evaluated(folder: Path, module: str, name: str, kind: str, **args: Any) -> dict[str, dict[str, float]]:
    """What the harness's command says of the three tasks."""
    told = ",".join(f"{key}={value}" for key, value in args.items())
    words = [sys.executable, "-m", module, "run", "--model", kind, "--model_args", told, "--include_path", "."]
    words += ["--tasks", "animals", "poem", "ending", "--output_path", f"{name}.json", "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    env = {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = folder.glob(f"**/{name}_*.json")
    results = json.loads(found.read_text(encoding="utf-8"))["results"]
    results["animals"]["logps"] = [
        float(logp)
        for line in next(folder.glob(f"**/samples_animals_{found.stem.partition('_')[2]}*")).read_text().splitlines()
        for ((logp, _),) in json.loads(line)["resps"]
    ]
    return {task: {key.partition(",")[0]: value for key, value in of_it.items()} for task, of_it in results.items()}


def choice_logp(lm: Any, before: str, choice: str) -> float:
    """What a choice costs after a text, in nats, `<eos>` left out, by the library's own scores."""
    scores = lm.score(before + choice)
    begins = np.asarray(scores.columns["start"]) >= len(before.rstrip())
    return float(-np.asarray(scores.columns["bits"])[begins][:-1].sum() * np.log(2))


def expected(lm: Any) -> dict[str, dict[str, float]]:
    """The same by the library's own scores."""
    right, logps_of_all = 0, list[float]()
    for row in ANIMALS:
        logps = [choice_logp(lm, row["before"], choice) for choice in row["choices"]]
        logps_of_all += logps
        right += int(np.argmax(logps)) == row["right"]
    table = lm.score(TEXTS)
    bits = [row["bits"] for row in table.rows if row["text"] != "<eos>"]
    of_bytes = sum(len(text.encode()) for text in TEXTS)
    said = [lm.generate(row["before"], "greedy", max_tokens=12, stop=["\n", "."])[0].text for row in ANIMALS]
    matched = [text == row["choices"][row["right"]] for text, row in zip(said, ANIMALS, strict=True)]
    return {
        "animals": {"acc": right / len(ANIMALS), "logps": logps_of_all},
        "poem": {"bits_per_byte": sum(bits) / of_bytes},
        "ending": {"exact_match": float(np.mean(matched))},
    }


def check(found: dict[str, dict[str, float]], lm: Any) -> None:
    for task, of_it in expected(lm).items():
        for key, value in of_it.items():
            assert found[task][key] == pytest.approx(value, abs=1e-4), (task, key)


@pytest.mark.parametrize("model", ["kn3", "lstm+kn3"])
def test_against_the_server(folder: Path, address: str, library: Any, model: str) -> None:
    where = {"base_url": f"{address}/v1/completions", "model": model, "max_length": 4096}
    check(evaluated(folder, "lm_eval", f"server-{model}", "local-completions", **where), library[model])


def test_in_its_own_process(folder: Path, runs: Path, library: Any) -> None:
    found = evaluated(folder, "lmlab.compat.lm_eval", "own", "lmlab", run=runs / "kn3", mix=f"{runs / 'lstm'}:0.6")
    check(found, library["kn3"].composed(mix=[f"{runs / 'lstm'}:0.6"]))


@pytest.mark.filterwarnings("ignore")
def test_its_figures_are_the_librarys(library: Any) -> None:
    from lmlab.compat.lm_eval import Lmlab

    for lm in library.values():
        asked = [(row["before"], choice) for row in ANIMALS for choice in row["choices"]]
        texts = [SimpleNamespace(args=(text,)) for text in TEXTS]
        pairs = Lmlab(lm).loglikelihood([SimpleNamespace(args=args) for args in [*asked, ("", "a dog")]])
        expected = [choice_logp(lm, *args) for args in asked]
        assert [logp for logp, _ in pairs[:-1]] == pytest.approx(expected, rel=1e-4)
        assert pairs[-1][0] == pytest.approx(choice_logp(lm, "", "a dog"), rel=1e-4)
        (said,) = lm.generate("a dog", "greedy", max_tokens=6)
        greedy = SimpleNamespace(args=("a dog", said.text)), SimpleNamespace(args=("a dog", said.text[:-1] + "Z"))
        assert [sure for _, sure in Lmlab(lm).loglikelihood(greedy)] == [True, False]
        # with <eos> the figure is that of `lmlab eval`
        assert sum(Lmlab(lm, eos=True).loglikelihood_rolling(texts)) == pytest.approx(
            -lm.score(TEXTS).total["total_nats"], rel=1e-5
        )
