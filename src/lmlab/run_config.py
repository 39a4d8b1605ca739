"""The configuration of a run: every setting of every group, with its value, and which of them somebody named.

It is built once, where a user's words come in (flags, keywords, a recipe, a run to repeat), and passed as itself from
then on. Later layers win: the settings' own defaults, what the model's architecture suggests for its training, a
recipe, what the caller names. `dump` gives the plain dict that is kept in `config.json`, and is itself a recipe.

    named = merged(from_tables(load_recipe("arxiv-lstm")), from_keywords({"minutes": 1}))
    config = RunConfig.build(named)
    config.model.kind, config.model.settings.hidden, config.train.minutes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from lmlab import registry
from lmlab.config import Field, Named, Settings, described, schema
from lmlab.corpora import DataSettings
from lmlab.errors import SettingError, UnknownNameError, UsageError
from lmlab.train_settings import TrainSettings

GROUPS = ("train", "data", "model", "tokenizer")
"""Where a setting named without its group is looked for, in this order."""
DEFAULT_MODEL = "lstm"
DEFAULT_MINUTES = 3.0
BUDGETS = ("minutes", "steps", "epochs")
_LARGEST_SEED = 2**63 - 1
_RUN_FIELDS = {
    "source": Field("source", str | None, None, "a file, a folder, a named corpus, or - for standard input", (), {}),
    "seed": Field("seed", int, 0, "of everything random; one seed gives one run", (), {"ge": 0, "le": _LARGEST_SEED}),
}


@dataclass(frozen=True)
class Component:
    """A model or a tokenizer as configured: its registered kind, and that kind's settings."""

    kind: str
    settings: Any

    def dump(self) -> dict[str, Any]:
        """The kind and the settings as one plain dict."""
        return {"kind": self.kind, **self.settings.dump()}


@dataclass(frozen=True)
class RunConfig:
    """A whole configuration.

    Attributes:
        source: what the corpus is opened from; None where the text is in hand.
        seed: of everything random.
        data: how the text is read and split.
        tokenizer: how text becomes ids.
        model: the architecture.
        train: how it is trained.
        named: the paths that the caller, a recipe or the run to repeat named; all others have defaults.
    """

    source: str | None
    seed: int
    data: DataSettings
    tokenizer: Component
    model: Component
    train: TrainSettings
    named: frozenset[str] = frozenset()

    @classmethod
    def build(cls, named: Named) -> Self:
        """Fill in every default, and check every value.

        Raises:
            UnknownNameError: there is no such kind, group or setting.
            SettingError: a value of the wrong type, or outside its bound.
            UsageError: more than one budget is named.
        """
        groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        run = {name: field.default for name, field in _RUN_FIELDS.items()}
        for path, value in named.items():
            group, dot, name = path.partition(".")
            if group in run:
                run[group] = {name: value} if dot else value
                _RUN_FIELDS[group].check(group, run[group])
            elif dot and group in groups:
                groups[group][name] = value
            else:
                raise UnknownNameError("group of settings", group, [*GROUPS, *run])
        model = _component("model", groups["model"], DEFAULT_MODEL)
        return cls(
            **run,
            data=DataSettings.make(groups["data"], "data"),
            tokenizer=_component("tokenizer", groups["tokenizer"], "char"),
            model=model,
            train=_train_settings(model.kind, groups["train"]),
            named=frozenset(named),
        )

    def for_code(self) -> RunConfig:
        """This configuration for a text that comes as tokens of code: where no tokenizer was named, that for code."""
        if "tokenizer.kind" in self.named:
            return self
        values = {name: getattr(self.tokenizer.settings, name) for name in self.names_in("tokenizer")}
        return dataclasses.replace(self, tokenizer=_component("tokenizer", values, "code"))

    def names_in(self, group: str) -> set[str]:
        """The settings of a group that were named."""
        return {path.removeprefix(f"{group}.") for path in self.named if path.startswith(f"{group}.")}

    def with_model(self, **values: Any) -> RunConfig:
        """This configuration with other settings of the model."""
        settings = dataclasses.replace(self.model.settings, **values)
        return dataclasses.replace(self, model=Component(self.model.kind, settings))

    def with_train(self, **values: Any) -> RunConfig:
        """This configuration with other settings of training."""
        return dataclasses.replace(self, train=dataclasses.replace(self.train, **values))

    def dump(self) -> dict[str, Any]:
        """The configuration as nested plain dicts, ready for JSON; `load` reads it."""
        groups = {group: getattr(self, group).dump() for group in GROUPS}
        return {"source": self.source, "seed": self.seed, **groups, "named": sorted(self.named)}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """Build from what `dump` gave.

        Raises:
            UsageError: it is no configuration.
        """
        missing = {"named", *GROUPS, *_RUN_FIELDS} - set(dumped)
        if missing:
            raise SettingError("a configuration", sorted(dumped), f"a table that has {', '.join(sorted(missing))} too")
        named = dumped["named"]
        if not (isinstance(named, list) and all(isinstance(path, str) for path in named)):
            raise SettingError("named", named, "a list of paths", 'such as ["model.kind"]')
        return dataclasses.replace(cls.build(from_tables(dumped)), named=frozenset(named))


def _component(group: str, values: Mapping[str, Any], default: str) -> Component:
    values = dict(values)
    kind = values.pop("kind", default)
    if not isinstance(kind, str):
        raise SettingError(f"{group}.kind", kind, f"one of {', '.join(registry.names(group))}")
    return Component(kind, settings_class(group, kind).make(values, group))


def _train_settings(model: str, values: Mapping[str, Any]) -> TrainSettings:
    own = getattr(registry.stored(model), "training_defaults", {})
    settings = TrainSettings.make({**own, **values}, "train")
    budgets = [name for name in BUDGETS if getattr(settings, name) is not None]
    if len(budgets) > 1:
        raise UsageError(f"a run has one budget, but {' and '.join(budgets)} are named", "name one of them")
    if budgets or settings.plan:
        return settings
    return dataclasses.replace(settings, minutes=DEFAULT_MINUTES)


def settings_class(group: str, kind: str | None = None) -> type[Settings]:
    """The settings of a group; of `model` and `tokenizer`, those of the kind.

    Raises:
        UnknownNameError: no such kind.
    """
    if group in ("model", "tokenizer"):
        described = registry.stored(kind or "") if group == "model" else registry.resolve(group, kind or "")
        settings: type[Settings] = described.Settings
        return settings
    return {"train": TrainSettings, "data": DataSettings}[group]


def json_schema() -> dict[str, Any]:
    """What a recipe or a `config.json` may hold, in JSON Schema (draft 2020-12)."""

    def kinds(group: str) -> list[dict[str, Any]]:
        tables = []
        for name in registry.names(group):
            table = schema(settings_class(group, name))
            table["properties"] = {"kind": {"const": name}, **table["properties"]}
            tables.append(table)
        return tables

    groups: dict[str, Any] = {group: schema(settings_class(group)) for group in ("data", "train")}
    groups |= {group: {"anyOf": kinds(group)} for group in ("tokenizer", "model")}
    run = {name: field.schema for name, field in _RUN_FIELDS.items()}
    named = {"named": {"type": "array", "items": {"type": "string"}, "description": "what was named, by path"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lmlab run",
        "type": "object",
        "additionalProperties": False,
        "properties": {**run, **groups, **named},
    }


# -- what is named, by path -------------------------------------------------------------------------------------------


def from_tables(tables: Mapping[str, Any]) -> Named:
    """What a recipe, a `config.json` or groups of settings name.

    Raises:
        UnknownNameError: a group that does not exist.
        SettingError: a group that is no table.

    >>> from_tables({"seed": 1, "model": {"kind": "cnn", "layers": 2}})
    {'seed': 1, 'model.kind': 'cnn', 'model.layers': 2}
    """
    named: Named = {}
    for name, value in (_of_today(tables) if "codec" in tables else tables).items():
        if name in GROUPS:
            if not isinstance(value, Mapping):
                raise SettingError(name, value, "a table of settings", f'for example [{name}] and under it a = "b"')
            named |= {f"{name}.{key}": one for key, one in value.items()}
        elif name in _RUN_FIELDS:
            _RUN_FIELDS[name].check(name, value)
            named[name] = value
        elif name != "named":
            raise UnknownNameError("group of settings", name, [*GROUPS, *_RUN_FIELDS])
    return named


def _of_today(tables: Mapping[str, Any]) -> dict[str, Any]:
    """A `config.json` of the first format in today's names, so that an old run can be made again."""
    train = dict(tables.get("train", {}))
    train["row_blocks"] = train.pop("parts", None)
    if train.get("sharpness") is not None:
        train["calibration_temperature"] = 1 / train["sharpness"]
    train.pop("sharpness", None)
    kept = {name: value for name, value in tables.items() if name not in ("codec", "vocab_size", "train")}
    return {**kept, "tokenizer": tables["codec"], "train": train}


def from_keywords(keywords: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> Named:
    """What a caller's keywords name; None is not named.

    `tokenizer="word"` names a kind, `tokenizer={"kind": "word", "lower": True}` several settings, and `order=5` one
    setting of the first group in `GROUPS` that has it.

    Args:
        keywords: by name.
        recipe: paths that say the kinds of model and tokenizer where no keyword does.

    Raises:
        UnknownNameError: no group has such a setting.

    >>> from_keywords({"tokenizer": "word", "model": "ngram", "order": 3, "minutes": 1})
    {'model.kind': 'ngram', 'tokenizer.kind': 'word', 'model.order': 3, 'train.minutes': 1}
    """
    given = {name: value for name, value in keywords.items() if value is not None}
    named: Named = {}
    for group in GROUPS:
        if group in given:
            value = given.pop(group)
            named |= from_tables({group: value if isinstance(value, Mapping) else {"kind": value}})
    kinds = {group: named.get(f"{group}.kind", (recipe or {}).get(f"{group}.kind")) for group in ("model", "tokenizer")}
    for name, value in given.items():
        named[name if name in _RUN_FIELDS else f"{_group_with(name, kinds)}.{name}"] = value
    return named


def _group_with(name: str, kinds: Mapping[str, str | None]) -> str:
    known: list[str] = []
    for group in GROUPS:
        kind = kinds.get(group) or (DEFAULT_MODEL if group == "model" else None)
        if group == "tokenizer" and kind is None:
            continue  # the text will tell
        names = [field.name for field in described(settings_class(group, kind))]
        if name in names:
            return group
        known += names
    raise UnknownNameError("setting", name, known)


def merged(*layers: Named) -> Named:
    """Layers of named values, the later ones winning; a budget that one names replaces those below, and their plan.

    >>> merged({"train.minutes": 3, "train.lr": 0.01}, {"train.steps": 100})
    {'train.lr': 0.01, 'train.steps': 100}
    """
    whole: Named = {}
    budgets = {f"train.{name}" for name in (*BUDGETS, "plan")}
    for layer in layers:
        if any(layer.get(path) is not None for path in budgets):
            whole = {path: value for path, value in whole.items() if path not in budgets}
        whole |= layer
    return whole
