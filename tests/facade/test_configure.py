import math

import pytest

from lmlab.config import load_recipe, recipe_names
from lmlab.errors import SettingError, UnknownNameError, UsageError
from lmlab.facade.configure import check_shape, complete, laid_over, settings_of, tree_of

LSTM = {"model": {"kind": "lstm"}, "tokenizer": {"kind": "char"}}


def whole(tree, seed=0):
    return complete(tree, source="my.txt", seed=seed)


def test_names_find_their_groups():
    tree = tree_of(tokenizer="word", model="ngram", order=3, lower=True, minutes=1, max_chars=9)
    assert tree == {
        "tokenizer": {"kind": "word", "lower": True},
        "model": {"kind": "ngram", "order": 3},
        "train": {"minutes": 1},
        "data": {"max_chars": 9},
    }


def test_a_group_may_come_as_a_whole_and_none_is_not_named():
    assert tree_of(model={"kind": "cnn", "layers": 2}, seed=None, minutes=None) == {
        "model": {"kind": "cnn", "layers": 2}
    }


def test_a_setting_of_the_model_that_nobody_named_is_the_default_models():
    assert tree_of(hidden=32) == {"model": {"hidden": 32}}


def test_a_recipe_tells_the_kinds_that_no_name_does():
    recipe = {"model": {"kind": "ngram"}, "tokenizer": {"kind": "word"}}
    assert tree_of(recipe, order=3, lower=True) == {"model": {"order": 3}, "tokenizer": {"lower": True}}
    with pytest.raises(UnknownNameError):
        tree_of(recipe, order=3, model="lstm")


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'hidden'"):
        tree_of(model="lstm", hiden=3)


def test_later_layers_win():
    defaults = whole({"model": {"kind": "lstm"}, "tokenizer": {"kind": "char"}})["train"]
    assert defaults["lr"] == 6e-3  # what the LSTM suggests stands above the general 3e-3
    assert defaults["clip_norm"] == 1.0  # what nobody names is the settings' own
    recipe = {**LSTM, "train": {"lr": 0.5, "floor": 0.5}}
    assert whole(laid_over(recipe, {"train": {"lr": 0.25}}))["train"]["lr"] == 0.25
    assert whole(laid_over(recipe, {"train": {"lr": 0.25}}))["train"]["floor"] == 0.5


def test_a_whole_configuration_is_its_own_recipe():
    once = whole({**LSTM, "train": {"steps": 5}, "data": {"split": "none"}})
    assert complete(once, source=once["source"], seed=once["seed"]) == once
    assert settings_of(once, "train").steps == 5


def test_a_run_has_one_budget():
    with pytest.raises(UsageError, match="one budget, but minutes and steps are named"):
        whole({**LSTM, "train": {"minutes": 1, "steps": 5}})
    assert whole(LSTM)["train"]["minutes"] == 3.0
    assert whole({**LSTM, "train": {"epochs": 2}})["train"]["minutes"] is None


@pytest.mark.parametrize("budget", ["minutes", "steps", "epochs"])
def test_a_budget_that_is_named_takes_the_place_of_the_recipes(budget):
    recipe = {**LSTM, "train": {"minutes": 3.0, "steps": None, "plan": "0:10", "lr": 0.5}}
    train = whole(laid_over(recipe, {"train": {budget: 2}}))["train"]
    assert {name: train[name] for name in ("minutes", "steps", "epochs", "plan") if train[name] is not None} == {
        budget: 2
    }
    assert train["lr"] == 0.5


def test_no_budget_named_leaves_the_recipes_plan():
    recipe = {**LSTM, "train": {"minutes": 3.0, "plan": "0:10"}}
    assert laid_over(recipe, {"train": {"lr": 0.1}})["train"] == {"minutes": 3.0, "plan": "0:10", "lr": 0.1}
    assert recipe["train"] == {"minutes": 3.0, "plan": "0:10"}


@pytest.mark.parametrize(
    "tree", [{"model": "lstm"}, {"train": 3}, {"source": 3}, {"seed": "x"}, {"seed": True}, {"seed": {"x": 1}}, [1]]
)
def test_a_tree_of_another_shape_is_refused(tree):
    with pytest.raises(SettingError):
        check_shape(tree)


def test_an_unknown_group_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'model'"):
        check_shape({"modell": {}})


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5])
def test_a_seed_beyond_its_bound_is_refused(seed):
    with pytest.raises(SettingError, match="seed is"):
        whole(LSTM, seed=seed)


@pytest.mark.parametrize("value", [math.inf, "inf"])
@pytest.mark.parametrize("name", ["minutes", "epochs", "lr"])
def test_infinity_is_no_setting(name, value):
    with pytest.raises(SettingError, match=f"train.{name} is inf"):
        whole({**LSTM, "train": {name: value}})


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_whole(name):
    recipe = load_recipe(name)
    check_shape(recipe)
    configuration = complete(recipe, source=recipe["source"], seed=0)
    for group in ("data", "tokenizer", "model", "train"):
        for key, value in recipe.get(group, {}).items():
            assert configuration[group][key] == value
