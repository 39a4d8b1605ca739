import importlib
import json
import pkgutil
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmlab
from lmlab.config import Settings, described, load_recipe, merge, parse_assignments, recipe_names, setting, walk
from lmlab.corpora import DataSettings
from lmlab.errors import SettingError, UnknownNameError, UsageError
from lmlab.facade.configure import complete, settings_of
from lmlab.training import TrainSettings


@dataclass(frozen=True)
class Sample(Settings):
    count: int = setting(2, "how many", ge=1, lt=10)
    share: float = setting(0.5, "how much", gt=0, le=1)
    shape: str = setting("round", "how it looks", choices=("round", "square"))
    on: bool = setting(True, "whether at all")
    limit: int | None = setting(None, "at most so many", ge=1)
    names: tuple[str, ...] = setting((), "what they are called")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("count", (1, 9), (0, 10, 1.5, "3", None, True)),
        ("share", (1, 1.0, 0.001), (0, 0.0, 1.01, float("nan"), None, "half")),
        ("shape", ("square",), ("Square", "", None, 1)),
        ("on", (True, False), (1, "yes", None)),
        ("limit", (None, 1), (0, "none", False)),
        ("names", ((), ("a", "b")), (["a"], "a", None)),
    ],
)
def test_a_value_keeps_its_bound(name, good, bad):
    for value in good:
        assert getattr(Sample(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(SettingError, match=f"^{name} is ") as caught:
            Sample(**{name: value})
        assert "\n" not in str(caught.value)


def test_the_message_tells_value_bound_and_help():
    with pytest.raises(SettingError) as caught:
        Sample(count=12)
    assert str(caught.value) == "count is 12, but must be an integer >= 1 and < 10: how many"


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        Sample().count = 3


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "3", 3),
        ("share", "1e-1", 0.1),
        ("share", "1", 1.0),
        ("shape", "square", "square"),
        ("on", "no", False),
        ("on", "TRUE", True),
        ("limit", "none", None),
        ("limit", "", None),
        ("limit", "7", 7),
        ("names", "a,b", ("a", "b")),
        ("names", "", ()),
        ("names", ["a", "b"], ("a", "b")),
        ("count", 3, 3),
    ],
)
def test_text_becomes_the_fields_type(name, text, value):
    made = getattr(Sample.make({name: text}, "group"), name)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(("name", "text"), [("count", "3.5"), ("count", "none"), ("share", "much"), ("on", "maybe")])
def test_text_that_is_no_such_value_names_the_group(name, text):
    with pytest.raises(SettingError, match=rf"^group\.{name} is '{text}'"):
        Sample.make({name: text}, "group")


def test_an_unknown_key_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="no setting of model is called 'shap': did you mean 'shape'"):
        Sample.make({"shap": "round"}, "model")


@given(st.integers(1, 9), st.floats(0.001, 1), st.booleans(), st.none() | st.integers(1, 10**9))
def test_what_is_dumped_makes_the_same_again_also_through_json(count, share, on, limit):
    settings = Sample(count=count, share=share, on=on, limit=limit, names=("a", "b"))
    assert Sample.make(settings.dump(), "group") == settings
    assert Sample.make(json.loads(json.dumps(settings.dump())), "group") == settings


def test_a_setting_without_help_is_a_fault():
    @dataclass(frozen=True)
    class Bare(Settings):
        mute: int = setting(1, "")

    with pytest.raises(TypeError, match=r"without help.*mute"):
        Bare()


def every_settings_class():
    for module in pkgutil.walk_packages(lmlab.__path__, "lmlab."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, new = set(), [Settings]
    while new:
        for kind in new.pop().__subclasses__():
            if kind.__module__.startswith("lmlab."):
                found.add(kind)
                new.append(kind)
    return found


def test_every_setting_of_the_package_has_help_and_a_default_within_its_bound():
    classes = every_settings_class()
    assert {TrainSettings, DataSettings} < classes
    for kind in classes:
        for field in described(kind):
            assert field.help.strip(), f"{kind.__qualname__}.{field.name}"
            assert not field.help.endswith("."), f"{kind.__qualname__}.{field.name}: help is a phrase"
            assert field.bound
        kind()


def test_assignments_become_a_tree():
    assert parse_assignments(["a.b=1", "a.c=x=y", "d.e="]) == {"a": {"b": "1", "c": "x=y"}, "d": {"e": ""}}


@pytest.mark.parametrize("word", ["a=1", "a.b", ".b=1", "a.=1", ""])
def test_what_is_no_assignment_is_refused(word):
    with pytest.raises(UsageError, match=r"--set takes group\.name=value"):
        parse_assignments([word])


trees = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers()),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | st.integers()),
    max_leaves=8,
)


@given(trees, trees)
def test_merging_lets_the_later_win_and_leaves_its_parts_alone(one, two):
    before = json.dumps([one, two])
    whole = merge(one, two)
    assert json.dumps([one, two]) == before
    assert dict(walk(two)).items() <= dict(walk(whole)).items()
    assert merge(one, {}) == merge({}, one) == one
    assert merge(whole, two) == whole


def test_a_merged_tree_shares_no_group_with_its_parts():
    part = {"model": {"layers": 1}}
    merge(part)["model"]["layers"] = 2
    assert part == {"model": {"layers": 1}}


def test_walk_gives_dotted_leaves():
    assert list(walk({"a": {"b": 1, "c": {"d": 2}}, "e": 3})) == [("a.b", 1), ("a.c.d", 2), ("e", 3)]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_whole(name):
    recipe = load_recipe(name)
    whole = complete(recipe, source=recipe["source"], seed=0)
    for group in ("data", "tokenizer", "model", "train"):
        settings_of(whole, group)
    asked = {path: value for path, value in walk(recipe) if path not in ("source", "seed")}
    filled = dict(walk(whole))
    for path, value in asked.items():
        assert filled[path] == (tuple(value) if isinstance(value, list) else value), path
    assert complete({**whole}, source=whole["source"], seed=0) == whole, "a whole configuration is itself a recipe"


def test_a_run_is_a_recipe(tmp_path):
    (tmp_path / "config.json").write_text('{"model": {"kind": "gru"}}')
    assert load_recipe(str(tmp_path)) == load_recipe(str(tmp_path / "config.json")) == {"model": {"kind": "gru"}}


def test_a_recipe_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\n[model]\nkind = 'rnn'\n")
    assert load_recipe(str(path)) == {"seed": 3, "model": {"kind": "rnn"}}


def test_an_unknown_recipe_offers_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'arxiv-lstm'"):
        load_recipe("arxiv-lsmt")
    with pytest.raises(UnknownNameError):
        load_recipe(str(tmp_path))


@pytest.mark.parametrize(("name", "content"), [("a.toml", b"= 1"), ("a.json", b"{"), ("a.toml", b"\xff\xfe")])
def test_a_damaged_recipe_is_told_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be read as a recipe") as caught:
        load_recipe(str(tmp_path / name))
    assert "\n" not in str(caught.value)
