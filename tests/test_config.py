import importlib
import json
import math
import pkgutil
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmlab
from lmlab.config import Settings, described, load_recipe, parse_assignments, schema, setting, walk
from lmlab.corpora import DataSettings
from lmlab.decoding import Constrained
from lmlab.errors import SettingError, UnknownNameError, UsageError
from lmlab.training import TrainSettings


@dataclass(frozen=True)
class Sample(Settings):
    count: int = setting(2, "how many", ge=1, lt=10)
    share: float = setting(0.5, "how much", gt=0, le=1)
    shape: str = setting("round", "how it looks", choices=("round", "square"))
    on: bool = setting(True, "whether at all")
    limit: int | None = setting(None, "at most so many", ge=1)
    names: tuple[str, ...] = setting((), "what they are called")
    drops: tuple[int, ...] = setting((), "what each loses", ge=0)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("count", (1, 9), (0, 10, 10**400, -(10**5000), 1.5, "3", None, True, [1], {"a": 1})),
        ("share", (1, 1.0, 0.001), (0, 0.0, 1.01, float("nan"), math.inf, 10**400, None, "half", [0.5], {"a": 1})),
        ("shape", ("square",), ("Square", "", None, 1)),
        ("on", (True, False), (1, "yes", None)),
        ("limit", (None, 1), (0, "none", False)),
        ("names", ((), ("a", "b")), (["a"], "a", None, ("a", 1), ({},))),
        ("drops", ((), (0, 3)), ((0, -1), (0, "x"), (0, 1.5), (True,), ((0,),))),
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
        ("drops", "0,0,1", (0, 0, 1)),
        ("drops", "0 0  1", (0, 0, 1)),
        ("drops", "0, 1", (0, 1)),
        ("drops", [0, 1], (0, 1)),
        ("count", 3, 3),
    ],
)
def test_text_becomes_the_fields_type(name, text, value):
    made = getattr(Sample.make({name: text}, "group"), name)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("count", "3.5", "'3.5'"),
        ("count", "none", "'none'"),
        ("count", 12, "12"),
        ("count", "9" * 5000, "'9999"),
        ("count", 10**400, "an integer of about 401 digits"),
        ("share", "much", "'much'"),
        ("on", "maybe", "'maybe'"),
        ("shape", {"a": {"b": 10**5000}}, "a dict too large to show"),
        ("drops", "0;1", "('0;1',)"),
        ("drops", "0,1.5", "(0, '1.5')"),
        ("drops", [0, "x"], "(0, 'x')"),
        ("drops", "0,-1", "(0, -1)"),
        ("limit", [[[]]], "[[[]]]"),
    ],
)
def test_a_wrong_value_names_path_value_and_bound(name, value, shown):
    bound = {field.name: field.bound for field in described(Sample)}[name]
    with pytest.raises(SettingError) as caught:
        Sample.make({name: value}, "group")
    said = str(caught.value)
    assert said.startswith(f"group.{name} is {shown}")
    assert f", but must be {bound}: " in said
    assert len(said) < 300
    assert "\n" not in said


@pytest.mark.parametrize("value", [math.inf, "inf", "1e999", "nan", -math.inf])
def test_numbers_are_finite(value):
    with pytest.raises(SettingError, match=r"^group\.share is -?(inf|nan), but must be finite: how much$"):
        Sample.make({"share": value}, "group")


def test_settings_that_do_not_go_together_are_told_with_their_path():
    with pytest.raises(SettingError, match=r"^data\.text_field is 'a', but must be left out"):
        DataSettings.make({"text_field": "a", "template": "{b}"}, "data")


def test_a_group_is_described_in_json_schema():
    whole_numbers = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    assert schema(Sample)["properties"] == {
        "count": {"type": "integer", "minimum": 1, "exclusiveMaximum": 10, "description": "how many", "default": 2},
        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "description": "how much", "default": 0.5},
        "shape": {"type": "string", "enum": ["round", "square"], "description": "how it looks", "default": "round"},
        "on": {"type": "boolean", "description": "whether at all", "default": True},
        "limit": {
            "anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}],
            "description": "at most so many",
            "default": None,
        },
        "names": {"type": "array", "items": {"type": "string"}, "description": "what they are called", "default": ()},
        "drops": {**whole_numbers, "description": "what each loses", "default": ()},
    }


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
        if kind is not Constrained:  # which nobody can give words that must come but the user
            kind()


def test_assignments_name_paths():
    assert parse_assignments(["a.b=1", "a.c=x=y", "d.e="]) == {"a.b": "1", "a.c": "x=y", "d.e": ""}


@pytest.mark.parametrize("word", ["a=1", "a.b", ".b=1", "a.=1", ""])
def test_what_is_no_assignment_is_refused(word):
    with pytest.raises(UsageError, match=r"--set takes group\.name=value"):
        parse_assignments([word])


def test_walk_gives_dotted_leaves():
    assert list(walk({"a": {"b": 1, "c": {"d": 2}}, "e": 3})) == [("a.b", 1), ("a.c.d", 2), ("e", 3)]


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


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.toml", b"= 1"), ("a.json", b"{"), ("a.toml", b"\xff\xfe"), ("a.json", b"[1]"), ("a.json", b"[" * 10**5)],
)
def test_a_damaged_recipe_is_told_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be read as a recipe") as caught:
        load_recipe(str(tmp_path / name))
    assert "\n" not in str(caught.value)
