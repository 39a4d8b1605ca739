import json
import subprocess
import sys

import pytest

from lmlab.report.ladder import Rung
from lmlab.seeing import curves
from lmlab.seeing.curves import LiveCurve, draw_curves, read_curve
from lmlab.training.events import Ended, Evaluated, MetricsFile, Stepped

CURVE = {"train": [(0.5, 3.0), (1.0, 2.5), (2.0, 2.0)], "valid": [(1.0, 2.6), (2.0, 2.2)]}


def stepped(step):
    return Stepped(step, 10, 3.0 / step, 0.1, 0.5, 100 * step, 100.0, float(step), 1.0)


def evaluated(step):
    return Evaluated(step, 3.1 / step, True, float(step))


ENDED = Ended(10, "done", 0.3, 10, 1000, 10.0)


def pixels(path):
    """The picture read back, (height, width, 4)."""
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return imread(path)


def coloured(image, colour):
    """Where the picture has this colour, (height, width)."""
    wanted = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return (abs(image[..., :3] - wanted) < 0.02).all(-1)


def test_a_curve_is_read_from_what_a_run_wrote(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for event in (stepped(1), evaluated(1), stepped(2), ENDED):
        metrics(event)
    assert read_curve(tmp_path / "metrics.jsonl") == {"train": [(1.0, 3.0), (2.0, 1.5)], "valid": [(1.0, 3.1)]}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["stepped", "evaluated", "stepped", "ended"]


def test_the_picture_shows_the_curve(tmp_path):
    draw_curves({"lstm": CURVE}, tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")
    assert image.shape == (540, 960, 4)
    blue = coloured(image, "#3b6fb6")
    assert blue.sum() > 500, "the first run is drawn in blue"
    columns = blue.any(0).nonzero()[0]
    assert columns.max() - columns.min() > 400, "its line goes from side to side"


def test_two_runs_have_two_colours_and_a_model_without_a_curve_its_level(tmp_path):
    draw_curves({"lstm": CURVE}, tmp_path / "one.png")
    draw_curves({"lstm": CURVE, "cnn": CURVE | {"valid": [(1.0, 2.9), (2.0, 2.4)]}}, tmp_path / "two.png")
    draw_curves({"lstm": CURVE}, tmp_path / "level.png", levels={"5-gram": 2.4})
    one, two, level = (pixels(tmp_path / f"{name}.png") for name in ("one", "two", "level"))
    assert coloured(two, "#d1603d").sum() > 300
    assert coloured(level, "#444444").sum(1).max() > 300, "a level line from side to side"
    assert (one != level).any()


def test_the_first_training_losses_do_not_press_the_validation_curve_flat(tmp_path):
    curve = {"train": [(0.1, 90.0), (1.0, 2.2), (2.0, 1.6)], "valid": [(1.0, 2.0), (2.0, 1.5)]}
    draw_curves({"lstm": curve}, tmp_path / "a.png")
    rows = coloured(pixels(tmp_path / "a.png"), "#3b6fb6").any(1).nonzero()[0]
    assert len(rows) > 150, "the thick line falls over a good part of the height"


@pytest.mark.parametrize(
    "curve",
    [
        {"train": [], "valid": []},
        {"train": [(1.0, 2.0)], "valid": []},
        {"train": [], "valid": [(1.0, 2.0)]},
    ],
)
def test_hardly_any_points_are_a_picture_all_the_same(tmp_path, curve):
    draw_curves({"run": curve}, tmp_path / "a.png", levels={"5-gram": 1.0})
    draw_curves({}, tmp_path / "level.png", levels={"5-gram": 1.0})
    found, level = pixels(tmp_path / "a.png"), pixels(tmp_path / "level.png")
    assert found.shape == level.shape
    assert coloured(level, "#444444").sum(1).max() > 300, "the level alone goes from side to side"
    assert coloured(found, "#3b6fb6").sum() > 20, "the run is in the legend at least"
    assert not coloured(level, "#3b6fb6").any()


def test_many_runs_are_drawn(tmp_path):
    curves = {str(n): {"train": [], "valid": [(1.0, 2.0 + n), (2.0, 1.5 + n)]} for n in range(9)}
    draw_curves(curves, tmp_path / "a.png", levels={str(n): 2.0 for n in range(6)})
    image = pixels(tmp_path / "a.png")
    for colour in ("#3b6fb6", "#d1603d", "#4c9a6a", "#8c5aa8", "#b8902f", "#5f6b73"):
        assert coloured(image, colour).sum() > 100, colour


def test_more_runs_than_colours_are_all_drawn(tmp_path):
    levels = {str(n): 2.0 for n in range(6)}
    for count in (6, 9):
        draw_curves({str(n): CURVE for n in range(count)}, tmp_path / f"{count}.png", levels=levels)
    assert (pixels(tmp_path / "6.png") != pixels(tmp_path / "9.png")).any()


def test_a_picture_replaces_the_one_before_at_once(tmp_path):
    (tmp_path / "a.png").write_text("an old one")
    draw_curves({"run": CURVE}, tmp_path / "a.png")
    pixels(tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_live_curve_is_redrawn_at_evaluations_not_too_often_and_at_the_end(tmp_path, monkeypatch):
    clock = [100.0]
    drawn = []
    monkeypatch.setattr(curves.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(curves, "draw_curves", lambda curves, path, *_: drawn.append((clock[0], curves, path)))
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curve.png"
    listeners = [MetricsFile(metrics), LiveCurve(metrics, picture)]

    def tell(event, at):
        clock[0] = at
        for listener in listeners:
            listener(event)

    tell(stepped(1), 101.0)
    tell(evaluated(1), 102.0)
    tell(evaluated(2), 105.0)
    tell(evaluated(3), 113.0)
    tell(stepped(4), 130.0)
    tell(ENDED, 131.0)
    assert [at for at, _, _ in drawn] == [102.0, 113.0, 131.0]
    assert [len(curves[tmp_path.name]["valid"]) for _, curves, _ in drawn] == [1, 3, 3]
    assert {path for _, _, path in drawn} == {picture}


def test_the_live_picture_grows(tmp_path):
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curve.png"
    write, draw = MetricsFile(metrics), LiveCurve(metrics, picture)
    for event in (stepped(1), evaluated(1)):
        write(event)
        draw(event)
    before = picture.read_bytes()
    for event in (stepped(2), evaluated(2), ENDED):
        write(event)
        draw(event)
    assert picture.read_bytes() != before
    pixels(picture)


def test_drawing_sets_no_global_state_and_importing_draws_nothing():
    code = (
        "import sys; from lmlab.seeing import curves; assert 'matplotlib' not in sys.modules;"
        "from pathlib import Path; import tempfile;"
        "curves.draw_curves({'a': {'train': [(1, 2)], 'valid': []}}, Path(tempfile.mkdtemp()) / 'a.png');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_ladder_stands_beside_the_curves_and_the_title_above(tmp_path):
    rungs = [Rung("uniform", 8.0, baseline=True), Rung("$none$", None), Rung("lstm", 2.0), Rung("mixture", 1.9)]
    draw_curves({"lstm": CURVE}, tmp_path / "a.png", {"5-gram": 2.5}, "a $text$, by char tokens", rungs)
    image = pixels(tmp_path / "a.png")
    assert image.shape == (540, 1440, 4)
    grey, blue, green = (coloured(image[:, :720], colour).sum() for colour in ("#9aa5ad", "#3b6fb6", "#4c9a6a"))
    assert grey / blue == pytest.approx(4, rel=0.1), "bars begin at zero"
    assert green / blue == pytest.approx(0.95, rel=0.1), "the best is marked"
    assert coloured(image[:, 720:], "#3b6fb6").sum() > 300
