"""Notebooks, executed by a kernel as nbconvert does it: what a cell shows, run once, run twice, interrupted."""

import re

import nbclient
import nbformat
import pytest

from tests.texts import TEXT

SETTINGS = (
    "dict(hidden=8, embedding=8, precision='fp32', threads=1, steps=30, evaluations=3, tokenizer='char', model='lstm')"
)
START = f"""
import lmlab, os, signal
from lmlab.training.events import Stepped
settings = {SETTINGS}
"""


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Executes cells; gives the outputs of each."""
    (tmp_path / "poem.txt").write_text(TEXT, encoding="utf-8")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "LMLAB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))

    def execute(*cells):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (START, *cells)])
        nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
        return [cell.outputs for cell in notebook.cells[1:]]

    return execute


def html(output):
    return output["data"]["text/html"]


def test_training_shows_one_display_and_then_what_the_model_is(executed):
    train = "lm = lmlab.train('poem.txt', out='run', overwrite=True, **settings)"
    first, again, shown, scores, written, compared = executed(
        train,
        train,  # a cell run twice
        "lm",
        "lm.score('the cat sat on a dog.')",
        "lm.generate('the cat', n=2, max_tokens=5, seed=1)",
        "lmlab.compare('poem.txt', ['ngram', 'lstm'], settings={'ngram': {'model': {'order': 3}}}, tokenizer='char',"
        " train={'steps': 2, 'threads': 1})",
    )
    for outputs in (first, again):
        (display,) = outputs  # updated in place, and nothing on standard error
        assert display["output_type"] == "display_data"
        assert "trained: 30 steps" in html(display)
        assert "<svg" in html(display)
        assert re.search(r"6-gram \d\.\d{3}", html(display))
        assert "sample" in html(display)
        assert "trained: 30 steps" in display["data"]["text/plain"]
        assert len(display["data"]["text/plain"].splitlines()) < 12
    (result,) = shown
    assert "LSTM on poem.txt" in result["data"]["text/plain"]
    for told in ("bits/byte", "parameters", "vocabulary", "lmlab generate run"):
        assert told in html(result)
    (result,) = scores
    assert re.search(r'title="\d+\.\d\d bits, probability [\d.e-]+, rank \d+"', html(result))
    assert "bits/byte" in result["data"]["text/plain"]
    (result,) = written
    assert html(result).count("<pre") == 2
    assert result["data"]["text/plain"].startswith("[1] the cat|")
    display, result = compared
    assert "<th>mixture</th>" in html(result)
    assert "mixture" in result["data"]["text/plain"]


def test_an_interrupted_cell_keeps_the_weights_and_says_how_to_go_on(executed):
    interrupt = "listeners=[lambda e: isinstance(e, Stepped) and e.step == 10 and os.kill(os.getpid(), signal.SIGINT)]"
    kept, resumed, unkept, saved = executed(
        f"lm = lmlab.train('poem.txt', out='run', {interrupt}, **settings)",
        "lm = lmlab.resume('run'); print(lm.manifest['status'], lm.manifest['results']['steps'])",
        f"lm = lmlab.train('poem.txt', {interrupt}, **settings)",
        "lm.save('kept'); print(lmlab.load('kept').score('the cat').total['tokens'])",
    )
    assert "interrupted at step 10: its best weights are in the model, and in run" in html(kept[0])
    assert "lmlab.resume(&#x27;run&#x27;)" in html(kept[0])
    assert resumed[-1]["text"] == "done 30\n"
    assert "lm.save(...)" in html(unkept[0])
    assert saved[-1]["text"] == "8\n"


def test_a_picture_is_shown_and_its_slider_is_a_widget_that_redraws(executed):
    shown, slider, moved = executed(
        "lm = lmlab.train('poem.txt', **settings); lm.plot.temperature('the cat', k=4)",
        "box = lm.plot.temperature('the cat', k=4).slider(); box",
        "before = box.children[1].value; box.children[0].value = 0.3; print(before != box.children[1].value)",
    )
    assert shown[-1]["data"]["image/png"]
    assert "application/vnd.jupyter.widget-view+json" in slider[-1]["data"]
    assert moved[-1]["text"] == "True\n"
