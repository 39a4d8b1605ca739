"""From what a user names to a whole configuration: every setting of every group, with its value.

Later layers win: the settings' own defaults, what the model's architecture suggests for its training, a recipe, what
the caller names. The result is a plain nested dict, kept in `config.json`, and is itself a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmlab import config, registry
from lmlab.config import Settings
from lmlab.corpora import DataSettings
from lmlab.errors import UnknownNameError, UsageError
from lmlab.training.settings import TrainSettings

GROUPS = ("train", "data", "model", "codec")
"""Where a setting named without its group is looked for, in this order."""
_BUDGETS = ("minutes", "steps", "epochs", "plan")


def group_class(group: str, kind: str | None = None) -> type[Settings]:
    """The settings class of a group; of `model` and `codec`, that of the kind."""
    if group in ("model", "codec"):
        settings: type[Settings] = registry.resolve(group, kind or "").Settings
        return settings
    return {"train": TrainSettings, "data": DataSettings}[group]


def tree_of(**named: Any) -> dict[str, Any]:
    """Names as a caller writes them, sorted into groups.

    `codec="word"` names a kind, `codec={"kind": "word", "lower": True}` a whole group, and `order=5` one setting of
    the first group in `GROUPS` that has it. None means not named.

    Raises:
        UnknownNameError: no group has such a setting.

    >>> tree_of(codec="word", model="ngram", order=3, minutes=1)
    {'codec': {'kind': 'word'}, 'model': {'kind': 'ngram', 'order': 3}, 'train': {'minutes': 1}}
    """
    tree: dict[str, Any] = {}
    loose = {}
    for name, value in named.items():
        if value is None:
            continue
        if name in GROUPS:
            tree[name] = dict(value) if isinstance(value, Mapping) else {"kind": value}
        else:
            loose[name] = value
    for name, value in loose.items():
        tree.setdefault(_group_with(name, tree), {})[name] = value
    return tree


def _group_with(name: str, tree: Mapping[str, Any]) -> str:
    known: list[str] = []
    for group in GROUPS:
        kind = tree.get(group, {}).get("kind")
        if group in ("model", "codec") and kind is None:
            continue
        names = [field.name for field in config.described(group_class(group, kind))]
        if name in names:
            return group
        known += names
    raise UnknownNameError("setting", name, known)


def complete(tree: Mapping[str, Any], *, source: str, seed: int) -> dict[str, Any]:
    """Fill a tree with every default, checked.

    Args:
        tree: groups `data`, `codec` (with its kind), `model` (with its kind), `train`.
        source: what the corpus was opened from.
        seed: of the run.

    Raises:
        SettingError, UnknownNameError: a value or a name that cannot be.
    """
    known = {*GROUPS, "source", "seed", "vocab_size"}
    for name in tree:
        if name not in known:
            raise UnknownNameError("group of settings", name, known)
    model_class = registry.resolve("model", tree["model"]["kind"])
    train = {**getattr(model_class, "training_defaults", {}), **tree.get("train", {})}
    budgets = [name for name in _BUDGETS[:-1] if train.get(name) is not None]
    if len(budgets) > 1:
        raise UsageError(f"a run has one budget, but {' and '.join(budgets)} are named", "name one of them")
    if not budgets and not train.get("plan"):
        train["minutes"] = 3.0
    whole = {"source": source, "seed": seed, "data": _filled("data", tree), "codec": _filled("codec", tree)}
    whole["model"] = _filled("model", tree)
    whole["train"] = TrainSettings.make(train, "train").dump()
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
