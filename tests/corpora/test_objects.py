"""What a program holds is read as the same text in a file is."""

import json

import pytest

from lmlab.corpora import DataSettings, open_corpus, open_objects
from lmlab.errors import DataError, DownloadError, EmptyDataError, LmlabError, MissingExtraError, SettingError

TEXTS = [f"text number {n} of some\nwith a second line" for n in range(40)]


class Indexed:
    """A data set as torch has them: a length, and items by their number, whatever number is asked for."""

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, number):
        return TEXTS[number % len(TEXTS)]


class Column(list):
    """A column of a frame."""


class Frame:
    """What pandas and polars frames share: the names of columns, and each column by its name."""

    def __init__(self, **columns):
        self.columns, self._held = list(columns), columns

    def __getitem__(self, name):
        return Column(self._held[name])


def texts_of(corpus, split="all"):
    return [document.text for document in corpus.documents(split)]


WAYS = {
    "list": lambda: TEXTS,
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "records": lambda: [{"id": n, "text": text} for n, text in enumerate(TEXTS)],
    "torch": Indexed,
    "frame": lambda: Frame(id=range(len(TEXTS)), text=TEXTS),
}


@pytest.mark.parametrize("settings", [{}, {"unit": "line"}, {"split": "0.5,0.25,0.25"}, {"max_chars": 9, "limit": 7}])
@pytest.mark.parametrize("way", WAYS)
def test_every_holder_is_the_corpus_of_the_file(way, settings, tmp_path):
    (tmp_path / "same.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    settings = DataSettings(**settings)
    if settings.unit == "line" and way in ("records", "frame"):
        return  # a record is a document
    lines = [{"text": line} for text in TEXTS for line in text.split("\n")] if settings.unit == "line" else None
    if lines:
        (tmp_path / "same.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = open_corpus(str(tmp_path / "same.jsonl"), DataSettings(**{**settings.dump(), "unit": "auto"}))
    held = open_objects(WAYS[way](), settings)
    assert held.sha256 == file.sha256
    assert all(texts_of(held, split) == texts_of(file, split) for split in ("train", "valid", "test"))


def test_pandas_frames_with_holes():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame({"title": ["a", None, "c"], "n": [1, 2, 3], "tokens": [["x", "y"], ["z"], ["w"]]})
    assert texts_of(open_objects(frame, DataSettings(template="{n}: {title}", split="none"))) == ["1: a", "2: ", "3: c"]
    tokens = open_objects(frame, DataSettings(text_field="tokens", split="none"))
    assert [document.tokens for document in tokens.documents("all")] == [("x", "y"), ("z",), ("w",)]
    with pytest.raises(DataError, match=r"row 0 has no field 'text'.*among title, n, tokens"):
        open_objects(frame)
    with pytest.raises(DataError, match="two columns called 'a'"):
        open_objects(pandas.DataFrame([["x", "y"]], columns=["a", "a"]))


def test_tables_of_arrow():
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    table = pyarrow.table({"text": ["a", None, "b"], "n": [1, 2, 3]})
    assert texts_of(open_objects(table, DataSettings(split="none"))) == ["a", "b"]
    with pytest.raises(DataError, match="row 0 has no field 'body_'"):
        open_objects(table, DataSettings(text_field="body_"))


def test_lists_of_tokens_are_taken_as_they_are():
    corpus = open_objects([["New York", "is"], ["big"]], DataSettings(split="none"))
    assert corpus.pretokenised
    assert [document.tokens for document in corpus.documents("all")] == [("New York", "is"), ("big",)]


def test_a_dict_of_splits_is_split_so():
    corpus = open_objects({"train": ["a", "b"], "validation": ["c"], "test": ["d"]})
    assert {split: texts_of(corpus, split) for split in ("train", "valid", "test")} == {
        "train": ["a", "b"],
        "valid": ["c"],
        "test": ["d"],
    }
    assert corpus.rule == "as the source names it"
    assert len(texts_of(open_objects({"train": TEXTS}), "valid")) > 0  # one part alone is split as any text is


class Lazy:
    """A frame that was not computed yet."""

    columns = ("text",)


def used():
    generator = (text for text in ["a"])
    list(generator)
    return generator


BAD = {
    "none": (None, SettingError, "iterable of texts"),
    "number": (3, SettingError, "iterable of texts"),
    "bytes": (b"text", SettingError, "iterable of texts"),
    "dict": ({"text": "a"}, SettingError, "iterable of texts"),
    "empty": ([], EmptyDataError, "holds no text"),
    "empty strings": (["", ""], EmptyDataError, "holds no text"),
    "empty frame": (Frame(), EmptyDataError, "holds no text"),
    "lazy": (Lazy(), SettingError, "collect it first"),
    "used": (used(), EmptyDataError, "read already"),
    "hole": (["a", None], DataError, "item 1 is None"),
    "numbers": ([1, 2], DataError, "item 0 is 1"),
    "nan": (["a", float("nan")], DataError, "item 1 is nan"),
    "pair": ([(3, "text")], DataError, "item 0 is"),
    "bytes inside": (["a", b"b"], DataError, "item 1 is b'b'"),
    "lists of numbers": ([["a"], [1]], DataError, "item 1 is"),
    "both": (["a", ["b"]], DataError, "holds tokens, but the documents before it text"),
    "no field": ([{"body_": "a"}], DataError, "has no field 'text'"),
    "nul": (["a\0b"], DataError, r"item 0 holds U\+0000"),
    "surrogate": (["a", "b\ud800"], DataError, r"item 1 holds U\+D800"),
    "splits of numbers": ({"train": [1], "test": ["a"]}, DataError, "item 0 is 1"),
    "a split that is none": ({"train": 5, "test": ["a"]}, SettingError, "iterable of texts"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_told_in_a_line(what):
    source, error, message = BAD[what]
    with pytest.raises(error, match=message) as caught:
        open_objects(source, DataSettings(split="none") if not isinstance(source, dict) else None)
    assert isinstance(caught.value, LmlabError)
    assert "\n" not in str(caught.value)


def test_a_text_of_ten_megabytes():
    corpus = open_objects(["word " * (2 << 20), "end"], DataSettings(split="none"))
    assert corpus.sizes["all"].chars == 5 * (2 << 20) + 3


def test_a_data_set_of_the_hub_needs_its_library_and_is_read_from_a_folder(tmp_path):
    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"lmlab\[datasets\]"):
            open_corpus("hf:some/name")
        return
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    assert texts_of(open_corpus(f"hf:{tmp_path / 'set'}", DataSettings(split="none"))) == TEXTS
    with pytest.raises(DownloadError, match="cannot be had"):
        open_corpus(f"hf:{tmp_path / 'none'}")
