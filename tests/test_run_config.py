import inspect
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmlab
from lmlab import registry
from lmlab.config import described, load_recipe, recipe_names, walk
from lmlab.errors import SettingError, UnknownNameError, UsageError
from lmlab.run_config import GROUPS, RunConfig, from_keywords, from_tables, json_schema, merged, settings_class

LSTM = {"model.kind": "lstm", "tokenizer.kind": "char"}


def test_names_find_their_groups():
    keywords = {"tokenizer": "word", "model": "ngram", "order": 3, "lower": True, "minutes": 1, "max_chars": 9}
    assert from_keywords(keywords) == {
        "tokenizer.kind": "word",
        "tokenizer.lower": True,
        "model.kind": "ngram",
        "model.order": 3,
        "train.minutes": 1,
        "data.max_chars": 9,
    }


def test_a_group_may_come_as_a_whole_and_none_is_not_named():
    named = from_keywords({"model": {"kind": "cnn", "layers": 2}, "seed": None, "minutes": None})
    assert named == {"model.kind": "cnn", "model.layers": 2}


def test_a_setting_of_the_model_that_nobody_named_is_the_default_models():
    assert from_keywords({"hidden": 32}) == {"model.hidden": 32}


def test_a_recipe_tells_the_kinds_that_no_name_does():
    recipe = {"model.kind": "ngram", "tokenizer.kind": "word"}
    assert from_keywords({"order": 3, "lower": True}, recipe) == {"model.order": 3, "tokenizer.lower": True}
    with pytest.raises(UnknownNameError):
        from_keywords({"order": 3, "model": "lstm"}, recipe)


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'hidden'"):
        from_keywords({"model": "lstm", "hiden": 3})


def test_later_layers_win():
    defaults = RunConfig.build(LSTM).train
    assert defaults.lr == 6e-3  # what the LSTM suggests stands above the general 3e-3
    assert defaults.clip_norm == 1.0  # what nobody names is the settings' own
    recipe = {**LSTM, "train.lr": 0.5, "train.floor": 0.5}
    both = RunConfig.build(merged(recipe, {"train.lr": 0.25})).train
    assert (both.lr, both.floor) == (0.25, 0.5)


def test_what_is_named_is_kept_also_where_it_is_the_default():
    config = RunConfig.build({**LSTM, "train.lr": 6e-3, "model.hidden": "512"})
    assert config.named == {"model.kind", "tokenizer.kind", "train.lr", "model.hidden"}
    assert config.names_in("model") == {"kind", "hidden"}
    assert RunConfig.build(LSTM).names_in("train") == set()
    assert RunConfig.load(json.loads(json.dumps(config.dump()))).named == config.named


def test_a_whole_configuration_is_its_own_recipe():
    once = RunConfig.build({**LSTM, "source": "my.txt", "train.steps": 5, "data.split": "none"})
    assert RunConfig.load(once.dump()) == once
    paths = from_tables(once.dump())
    assert RunConfig.build(paths).dump() == {**once.dump(), "named": sorted(paths)}
    assert once.train.steps == 5


def test_a_run_has_one_budget():
    with pytest.raises(UsageError, match="one budget, but minutes and steps are named"):
        RunConfig.build({**LSTM, "train.minutes": 1, "train.steps": 5})
    assert RunConfig.build(LSTM).train.minutes == 3.0
    assert RunConfig.build({**LSTM, "train.epochs": 2}).train.minutes is None
    assert RunConfig.build({**LSTM, "train.plan": "0:10"}).train.minutes is None


@pytest.mark.parametrize("budget", ["minutes", "steps", "epochs"])
def test_a_budget_that_is_named_takes_the_place_of_the_recipes(budget):
    recipe = {**LSTM, "train.minutes": 3.0, "train.steps": None, "train.plan": "0:10", "train.lr": 0.5}
    train = RunConfig.build(merged(recipe, {f"train.{budget}": 2})).train
    budgets = {name: getattr(train, name) for name in ("minutes", "steps", "epochs", "plan")}
    assert {name: value for name, value in budgets.items() if value is not None} == {budget: 2}
    assert train.lr == 0.5


def test_no_budget_named_leaves_the_recipes_plan():
    recipe = {**LSTM, "train.minutes": 3.0, "train.plan": "0:10"}
    assert merged(recipe, {"train.lr": 0.1}) == {**recipe, "train.lr": 0.1}
    assert recipe == {**LSTM, "train.minutes": 3.0, "train.plan": "0:10"}


def test_a_text_of_code_tokens_changes_the_tokenizer_that_nobody_named():
    assert RunConfig.build({}).tokenizer.kind == "char"
    assert RunConfig.build({}).for_code().tokenizer.kind == "code"
    assert RunConfig.build({"tokenizer.min_count": 3}).for_code().tokenizer.settings.min_count == 3
    assert RunConfig.build({"tokenizer.kind": "char"}).for_code().tokenizer.kind == "char"


def test_a_configuration_changes_by_name_and_within_bounds():
    config = RunConfig.build(LSTM)
    other = config.with_model(hidden=64).with_train(lr=0.5)
    assert (other.model.settings.hidden, other.train.lr, other.model.kind) == (64, 0.5, "lstm")
    assert (config.model.settings.hidden, config.train.lr) == (512, 6e-3)
    with pytest.raises(SettingError, match="hidden is 0"):
        config.with_model(hidden=0)


@pytest.mark.parametrize(
    "tables", [{"model": "lstm"}, {"train": 3}, {"source": 3}, {"seed": "x"}, {"seed": True}, {"seed": {"x": 1}}]
)
def test_tables_of_another_shape_are_refused(tables):
    with pytest.raises(SettingError):
        RunConfig.build(from_tables(tables))


@pytest.mark.parametrize("kind", [["lstm"], 3, None, {"a": 1}, True])
@pytest.mark.parametrize("group", ["model", "tokenizer"])
def test_a_kind_that_is_no_word_is_refused(group, kind):
    with pytest.raises(SettingError, match=rf"^{group}\.kind is .*, but must be one of "):
        RunConfig.build({f"{group}.kind": kind})


def test_an_unknown_group_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'model'"):
        from_tables({"modell": {}})
    with pytest.raises(UnknownNameError, match="did you mean 'model'"):
        RunConfig.build({"modell.layers": 1})


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "x", None, 10**400])
def test_a_seed_beyond_its_bound_is_refused(seed):
    with pytest.raises(SettingError, match=r"^seed is"):
        RunConfig.build({"seed": seed})


@pytest.mark.parametrize("value", [math.inf, "inf", -math.inf, "nan"])
@pytest.mark.parametrize("name", ["minutes", "epochs", "lr"])
def test_infinity_is_no_setting(name, value):
    with pytest.raises(SettingError, match=rf"train\.{name} is -?(inf|nan)"):
        RunConfig.build({**LSTM, f"train.{name}": value})


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_whole(name):
    recipe = load_recipe(name)
    config = RunConfig.build(from_tables(recipe))
    filled = dict(walk(config.dump()))
    for path, value in walk(recipe):
        assert filled[path] == (tuple(value) if isinstance(value, list) else value), path
    assert RunConfig.load(config.dump()) == config, "a whole configuration is itself a recipe"


EVERY_FIELD = [
    (group, kind, field)
    for group in GROUPS
    for kind in (registry.names(group) if group in ("model", "tokenizer") else [None])
    for field in described(settings_class(group, kind))
]
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
junk = st.recursive(
    plain | st.sampled_from([10**400, "9" * 400, "1e999", "1 2", "0,x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


def taken_or_told(which, value):
    """Whether a value is taken, and comes back from JSON as it was, or refused in one line that names the setting."""
    group, kind, field = which
    named = {f"{group}.{field.name}": value, **({f"{group}.kind": kind} if kind else {})}
    try:
        config = RunConfig.build(named)
    except UsageError as error:
        said = str(error)
        return "\n" not in said and len(said) < 600 and (field.name in said or "one budget" in said)
    return RunConfig.load(json.loads(json.dumps(config.dump()))) == config


@given(st.sampled_from(EVERY_FIELD), junk)
def test_any_value_of_any_setting_is_taken_or_told_in_one_line(which, value):
    assert taken_or_told(which, value)


NASTY = [
    *[10**400, -(10**400), "9" * 400, "9" * 5000, "1e999", "-1e999", "nan", float("nan"), float("inf"), -1, 1.5, True],
    *[
        "",
        " ",
        ",",
        "0,x",
        "0;1",
        "1 2",
        "none",
        "\x00",
        "\ud800",
        "é" * 1000,
        "{",
        "{}",
        "../..",
        "-",
        "=",
        "9" * 400 + "T",
    ],
    *[[], [[]], [None], [10**400], {}, {"a": {"b": 1}}, None],
]


@pytest.mark.parametrize("which", EVERY_FIELD, ids=lambda which: f"{which[0]}-{which[1]}-{which[2].name}")
def test_nothing_nasty_gets_past_a_setting(which):
    assert [value for value in NASTY if not taken_or_told(which, value)] == []


def at_and_beyond(field):
    """Of each bound of a field the last value that it allows, and the first that it does not."""
    step = 1 if field.type in (int, int | None, tuple[int, ...]) else 1e-9
    steps = {"ge": (0, -step), "gt": (step, 0), "le": (0, step), "lt": (-step, 0)}
    for op, limit in field.bounds.items():
        good, bad = steps[op]
        yield limit + good, limit + bad


@pytest.mark.parametrize("which", EVERY_FIELD, ids=lambda which: f"{which[0]}-{which[1]}-{which[2].name}")
def test_every_bound_holds(which):
    group, kind, field = which
    cls, listed = settings_class(group, kind), "tuple" in str(field.type)
    for at, beyond in at_and_beyond(field):
        field.check(field.name, (at,) if listed else at)
        with pytest.raises(SettingError, match=rf"^{group}\.{field.name} is "):
            cls.make({field.name: [beyond] if listed else beyond}, group)
    for choice in field.choices:
        field.check(field.name, choice)
    if field.choices:
        with pytest.raises(SettingError, match="one of"):
            cls.make({field.name: "none of them"}, group)


def test_the_signature_and_the_schema_name_every_setting():
    shown = inspect.signature(lmlab.train).parameters
    properties = json_schema()["properties"]
    for group, kind, field in EVERY_FIELD:
        assert shown[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        tables = properties[group].get("anyOf", [properties[group]])
        table = next(one for one in tables if kind is None or one["properties"]["kind"]["const"] == kind)
        assert table["properties"][field.name]["description"] == field.help


def test_a_run_of_the_first_format_is_a_recipe():
    old = {
        "source": "my.txt",
        "seed": 3,
        "vocab_size": 70,
        "data": {"split": "none"},
        "codec": {"kind": "word"},
        "model": {"kind": "gru"},
        "train": {"steps": 5, "parts": 2, "sharpness": 0.8, "lr": 0.5},
    }
    config = RunConfig.build(from_tables(old))
    assert (config.tokenizer.kind, config.model.kind, config.seed, config.data.split) == ("word", "gru", 3, "none")
    train = config.train
    assert (train.steps, train.row_blocks, train.calibration_temperature, train.lr) == (5, 2, 1.25, 0.5)
