"""From what a user names to a whole configuration: every setting of every group, with its value.

Later layers win: the settings' own defaults, what the model's architecture suggests for its training, a recipe, what
the caller names. The result is a plain nested dict, kept in `config.json`, and is itself a recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lmlab import config, registry
from lmlab.config import Settings, merge, walk
from lmlab.corpora import DataSettings
from lmlab.errors import SettingError, UnknownNameError, UsageError
from lmlab.training.settings import TrainSettings

GROUPS = ("train", "data", "model", "tokenizer")
"""Where a setting named without its group is looked for, in this order."""
DEFAULT_MODEL = "lstm"
_BUDGETS = ("minutes", "steps", "epochs", "plan")
_LARGEST_SEED = 2**63 - 1


def group_class(group: str, kind: str | None = None) -> type[Settings]:
    """The settings class of a group; of `model` and `tokenizer`, that of the kind."""
    if group in ("model", "tokenizer"):
        settings: type[Settings] = registry.resolve(group, kind or "").Settings
        return settings
    return {"train": TrainSettings, "data": DataSettings}[group]


def tree_of(recipe: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Any]:
    """Names as a caller writes them, sorted into groups.

    `tokenizer="word"` names a kind, `tokenizer={"kind": "word", "lower": True}` a whole group, and `order=5` one
    setting of the first group in `GROUPS` that has it. None means not named.

    Args:
        recipe: says the kinds of model and tokenizer where no name does.
        **named: the names.

    Raises:
        UnknownNameError: no group has such a setting.

    >>> tree_of(tokenizer="word", model="ngram", order=3, minutes=1)
    {'tokenizer': {'kind': 'word'}, 'model': {'kind': 'ngram', 'order': 3}, 'train': {'minutes': 1}}
    """
    tree: dict[str, Any] = {}
    kinds = {group: (recipe or {}).get(group, {}).get("kind") for group in ("model", "tokenizer")}
    loose = {}
    for name, value in named.items():
        if value is None:
            continue
        if name in GROUPS:
            tree[name] = dict(value) if isinstance(value, Mapping) else {"kind": value}
            kinds[name] = tree[name].get("kind") or kinds.get(name)
        else:
            loose[name] = value
    for name, value in loose.items():
        tree.setdefault(_group_with(name, kinds), {})[name] = value
    return tree


def _group_with(name: str, kinds: Mapping[str, str | None]) -> str:
    known: list[str] = []
    for group in GROUPS:
        kind = kinds.get(group) or (DEFAULT_MODEL if group == "model" else None)
        if group == "tokenizer" and kind is None:
            continue  # the text will tell
        names = [field.name for field in config.described(group_class(group, kind))]
        if name in names:
            return group
        known += names
    raise UnknownNameError("setting", name, known)


def laid_over(recipe: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller names, laid over a recipe; a budget that is named takes the place of the recipe's.

    >>> laid_over({"train": {"minutes": 3, "lr": 0.01}}, {"train": {"steps": 100}})
    {'train': {'lr': 0.01, 'steps': 100}}
    """
    if not any(named.get("train", {}).get(budget) is not None for budget in _BUDGETS):
        return merge(recipe, named)
    train = {name: value for name, value in recipe.get("train", {}).items() if name not in _BUDGETS}
    return merge({**recipe, "train": train}, named)


def check_shape(tree: Mapping[str, Any]) -> None:
    """Raise unless a tree is made of known groups, each a table, and of a source and a seed.

    Raises:
        UnknownNameError: a name that is none of them.
        SettingError: a value of another shape.
    """
    if not isinstance(tree, Mapping):
        raise SettingError("a recipe", tree, "a table of settings", "see docs/guide/recipes.md")
    for name, value in tree.items():
        if name not in (*GROUPS, "source", "seed", "vocab_size"):
            raise UnknownNameError("group of settings", name, GROUPS)
        if name in GROUPS and not isinstance(value, Mapping):
            raise SettingError(name, value, "a table of settings", f'for example [{name}] and under it a = "b"')
        if name == "source" and not isinstance(value, str):
            raise SettingError(name, value, "text", "a file, a folder or a named corpus")
        if name == "seed":
            _check_seed(value)


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _LARGEST_SEED:
        raise SettingError("seed", seed, "an integer >= 0 and < 2**63", "any will do; the same gives the same run")


def complete(tree: Mapping[str, Any], *, source: str, seed: int) -> dict[str, Any]:
    """Fill a tree with every default, checked.

    Args:
        tree: groups `data`, `tokenizer` (with its kind), `model` (with its kind), `train`.
        source: what the corpus was opened from.
        seed: of the run.

    Raises:
        SettingError, UnknownNameError: a value or a name that cannot be.
    """
    check_shape(tree)
    _check_seed(seed)
    model_class = registry.resolve("model", tree["model"]["kind"])
    train = {**getattr(model_class, "training_defaults", {}), **tree.get("train", {})}
    budgets = [name for name in _BUDGETS[:-1] if train.get(name) is not None]
    if len(budgets) > 1:
        raise UsageError(f"a run has one budget, but {' and '.join(budgets)} are named", "name one of them")
    if not budgets and not train.get("plan"):
        train["minutes"] = 3.0
    whole = {"source": source, "seed": seed, "data": _filled("data", tree), "tokenizer": _filled("tokenizer", tree)}
    whole["model"] = _filled("model", tree)
    whole["train"] = TrainSettings.make(train, "train").dump()
    for name, value in walk(whole):
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingError(name, value, "finite", "leave it out for its default")
    return whole


def _filled(group: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(tree.get(group, {}))
    kind = values.pop("kind", None)
    filled = group_class(group, kind).make(values, group).dump()
    return {"kind": kind, **filled} if kind else filled


def settings_of(whole: Mapping[str, Any], group: str) -> Any:
    """One group of a whole configuration as its settings object."""
    values = dict(whole[group])
    kind = values.pop("kind", None)
    return group_class(group, kind).make(values, group)
