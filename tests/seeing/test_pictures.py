"""Every picture, by its function, on the command line, and with bad input; what all pictures have in common."""

import json
import os
import xml.etree.ElementTree as ElementTree

import pytest

import lmlab
from lmlab.cli import main
from lmlab.errors import SettingError, UsageError
from lmlab.seeing import PLOTS, WORDS
from lmlab.seeing.style import token_label
from tests.texts import TEXT as LINES

TEXT = "the cat sat on the mat. the dog sat on the log. " * 20
PROMPT = "the cat sat on the"


@pytest.fixture(scope="module")
def ngram(tmp_path_factory):
    lm = lmlab.train(text=TEXT, tokenizer="word", model="ngram", order=3)
    lm.save(tmp_path_factory.mktemp("runs") / "kn")
    return lm


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs on one file: an LSTM and an n-gram of characters, and their mixture."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "poem.txt").write_text(LINES * 3, encoding="utf-8")
    settings = {"lstm": {"model": {"hidden": 8, "embedding": 8}}, "ngram": {"model": {"order": 3}}}
    train = {"steps": 6, "evaluations": 2, "threads": 1, "precision": "fp32", "baseline": True}
    lmlab.compare(
        str(folder / "poem.txt"),
        ["lstm", "ngram"],
        out=folder / "all",
        settings=settings,
        tokenizer="char",
        train=train,
    )
    return folder / "all"


OF = {"curves": ["lstm", "ngram"], "compare": ["lstm", "ngram"], "mixture": ["mixture"], "ngram": ["ngram"]}
FLAGS = {"context": {"longest": 8, "positions": 20}}


def picture(runs, name):
    """A picture of the runs that it is for."""
    lm, *others = (lmlab.load(runs / run) for run in OF.get(name, ["lstm"]))
    return getattr(lm.plot, name)(*others, **FLAGS.get(name, {}))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", PLOTS)
def test_every_picture_has_figures_labels_and_a_title_that_fits(runs, name):
    drawn = picture(runs, name)
    assert drawn.rows
    json.dumps(drawn.rows)
    figure = drawn.figure
    figure.draw_without_rendering()
    assert name == "beams" or any(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes), "a tree has no axes"
    narrow = figure.get_suptitle()
    assert "poem.txt" in narrow or "lstm" in narrow
    for title in (drawn.title, "a title of many words " * 20, "WWWW" * 100, "$x_1$ " * 60):
        figure = type(drawn)(title, drawn.rows, drawn.draw, drawn.size).figure
        figure.draw_without_rendering()
        extent = figure._suptitle.get_window_extent()
        assert extent.x0 >= 0
        assert extent.x1 <= figure.bbox.width, title
        assert all(axes.get_tightbbox().y1 <= extent.y0 + 2 for axes in figure.axes), "beneath the title"


@pytest.mark.parametrize("name", PLOTS)
def test_every_picture_is_drawn_twice_alike_by_its_command_without_a_word_too_much(runs, name, tmp_path, capsys):
    words = ["plot", name, *(str(runs / run) for run in OF.get(name, ["lstm"]))]
    words += [word for flag, value in FLAGS.get(name, {}).items() for word in (f"--{flag}", str(value))]
    written = []
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        assert main([*words, "-o", str(path)]) == 0
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", PLOTS)
def test_where_nothing_may_be_written_a_line_says_so_and_an_old_picture_stays(runs, name, tmp_path, capsys):
    (tmp_path / "file").write_text("old")
    words = [str(runs / run) for run in OF.get(name, ["lstm"])]
    for out in (tmp_path / "file" / "a.png", tmp_path / "none" / "a.png"):
        assert main(["plot", name, *words, *(["--longest", "8"] if name == "context" else []), "-o", str(out)]) == 1
        told = capsys.readouterr().err
        assert len(told.splitlines()) == 1
        assert out.name in told or "file" in told
    assert (tmp_path / "file").read_text() == "old"


def test_the_columns_of_a_temperature_are_what_generation_draws_from(ngram):
    picture = ngram.plot.temperature(PROMPT, temperatures=(1.0, 0.5), k=4, chain="top_k=3")
    (generation,) = ngram.generate(PROMPT, "greedy", temperature=0.5, top_k=3, max_tokens=1, alternatives=4)
    assert [row["token"] for row in picture.rows][:3] == [text for text, _, _ in generation.written[0].alternatives][:3]
    assert sum(row["p at 0.5"] for row in picture.rows) == pytest.approx(1)
    assert picture.rows[3]["p at 0.5"] == 0 < picture.rows[3]["p"]
    assert [row["p"] for row in picture.rows] == pytest.approx(list(ngram.next_tokens(PROMPT, k=4).values()))


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_a_picture_is_written_in_the_form_that_its_ending_names_and_twice_alike(ngram, tmp_path, form):
    picture = ngram.plot.temperature(PROMPT)
    first, second = (picture.save(tmp_path / f"{name}.{form}").read_bytes() for name in "ab")
    assert first == second
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form])
    if form == "svg":
        assert ElementTree.fromstring(first).tag.endswith("svg")


def test_the_command_draws_and_tells_what_the_method_does(ngram, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["plot", "temperature", str(ngram.folder), "--prompt", PROMPT, "--temperatures", "0.5,2", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == ngram.plot.temperature(PROMPT, temperatures=(0.5, 2.0)).rows
    assert not list(tmp_path.iterdir()), "--json alone draws nothing"
    assert main(["plot", "temperature", str(ngram.folder)]) == 0
    assert (tmp_path / "temperature.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("word", list(WORDS))
def test_what_a_model_offers_is_listed(ngram, word, capsys):
    pictures = getattr(ngram, {"plot": "plot", "inspect": "inspect"}[word])
    assert dir(pictures) == sorted(WORDS[word])
    assert all(getattr(pictures, name).__doc__ for name in dir(pictures))
    with pytest.raises(AttributeError, match="there is no picture 'nothing'"):
        pictures.nothing  # noqa: B018
    main([word, "--help"])
    assert all(shows in capsys.readouterr().out + repr(pictures) for shows in WORDS[word].values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plot"], ""),
        (["plot", "nothing"], "nothing"),
        (["plot", "temperature", "RUN", "-o", "a.gif"], "a.gif names no form of a picture"),
        (["plot", "temperature", "RUN", "-o", "a.html"], "this picture has no page"),
        (["plot", "temperature", "RUN", "--k", "0"], "k"),
        (["plot", "temperature", "RUN", "--temperatures", "-1"], "temperature"),
        (["plot", "temperature", "RUN", "--temperatures", "a"], "temperatures"),
        (["plot", "temperature", "RUN", "--chain", "nothing"], "nothing"),
        (["plot", "temperature", "RUN", "--prompt", "zebra"], "zebra"),
        (["plot", "temperature", "nowhere"], "nowhere"),
        (["plot", "temperature", "RUN", "-o", "/nowhere/a.png"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line(ngram, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert main([str(ngram.folder) if word == "RUN" else word for word in words]) in (1, 2)
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == (1 if said else 0)


BAD = [
    ("curves ngram", "nothing was trained by steps and kept: name a neural run"),
    ("curves lstm --against weeks", "weeks"),
    ("compare lstm", "two runs are compared, not 1: lmlab eval"),
    ("compare lstm ngram mixture", "not 3"),
    ("compare lstm ngram --unit page", "page"),
    ("compare lstm ngram --resamples 0", "resamples"),
    ("compare lstm ngram --on short.txt", "two at least"),
    ("context lstm --longest 100000", "lower --longest to"),
    ("context lstm --longest 8 --positions 0", "positions"),
    ("context lstm --longest 8 --on short.txt", "name a longer text"),
    ("calibration lstm --bins 0", "bins"),
    ("calibration lstm --on empty.txt", "empty.txt"),
    ("surprisal lstm --on long.txt", "more than the 4,000 characters"),
    ("surprisal lstm --on nowhere.txt", "nowhere.txt"),
    ("surprisal lstm --text a --on short.txt", "leave one of them out"),
    ("surprisal lstm --k 0", "k"),
    ("ngram lstm", "only an n-gram model has counts, and this run's is lstm: lmlab plot surprisal"),
    ("ngram mixture", "only an n-gram"),
    ("ngram ngram --on long.txt", "room for"),
    ("ngram ngram --on middle.txt", "room for 60"),
    ("mixture lstm", "no mixture but one lstm: mix another in with --mix RUN"),
    ("mixture mixture --on long.txt", "room for"),
    ("mixture mixture --on middle.txt", "room for 400"),
    ("mixture lstm --mix nowhere", "nowhere"),
    ("zipf nowhere", "nowhere"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_what_a_picture_cannot_show_is_one_line_that_says_what_works(runs, tmp_path, capsys, monkeypatch, words, said):
    for name, size in (("short", 1), ("middle", 500), ("long", 10_000_000), ("empty", 0)):
        (tmp_path / f"{name}.txt").write_text("a" * size)
    monkeypatch.chdir(tmp_path)
    name, *others = words.split()
    words = ["plot", name, *(str(runs / word) if (runs / word).is_dir() else word for word in others)]
    before = sorted(os.listdir())
    assert main(words) in (1, 2)
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1
    assert sorted(os.listdir()) == before


def test_no_temperature_at_all_is_refused(ngram):
    with pytest.raises((SettingError, UsageError), match="temperatures"):
        ngram.plot.temperature(PROMPT, temperatures=())


@pytest.mark.parametrize(
    ("token", "label"), [("\n", "↵"), (" the", "␣the"), ("$x$", r"\$x\$"), ("", "∅"), ("\x00", "�")]
)
def test_a_token_is_seen_on_an_axis(token, label):
    assert token_label(token) == label
