"""Settings: frozen dataclasses whose fields carry their help and their bounds.

One description of a field serves the constructor's checks, the command line's help, the recipe reader and the
generated documentation:

    @dataclass(frozen=True)
    class Settings(config.Settings):
        layers: int = setting(1, "stacked layers", ge=1)

A run's configuration is a plain nested dict, `{"data": {...}, "tokenizer": {"kind": "char"}, "model": {"kind": "lstm"},
"train": {...}}`, the same in a recipe (TOML), in `config.json` and in memory.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from lmlab.errors import SettingError, UnknownNameError, UsageError

_COMPARE = {
    "ge": (lambda v, b: v >= b, ">="),
    "gt": (lambda v, b: v > b, ">"),
    "le": (lambda v, b: v <= b, "<="),
    "lt": (lambda v, b: v < b, "<"),
}


def setting(default: Any, help: str, *, choices: Sequence[str] = (), **bounds: float) -> Any:
    """A dataclass field with its help text and its bounds (`ge`, `gt`, `le`, `lt`, or `choices`)."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices), "bounds": bounds})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of every group of settings: checks its bounds when made."""

    def __post_init__(self) -> None:
        for field in described(type(self)):
            field.check(getattr(self, field.name))

    @classmethod
    def make(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build from a mapping, text values (of a command line or a recipe) turned into the field's type.

        Args:
            values: name to value.
            where: the group's name, for messages: `"model"`.

        Raises:
            SettingError: an unknown name, a value of the wrong type, or one outside its bound.
        """
        known = {field.name: field for field in described(cls)}
        for name in values:
            if name not in known:
                raise UnknownNameError(f"setting of {where}", name, known)
        return cls(**{name: known[name].convert(value, where) for name, value in values.items()})

    def dump(self) -> dict[str, Any]:
        """The settings as a plain dict, ready for JSON."""
        return dataclasses.asdict(self)


class Field(NamedTuple):
    """One setting: its name, type, default, help and bounds."""

    name: str
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...]
    bounds: Mapping[str, float]

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = " or ".join(_type_name(t) for t in _alternatives(self.type))
        limits = " and ".join(f"{_COMPARE[op][1]} {limit:g}" for op, limit in self.bounds.items())
        return f"{kind} {limits}".strip()

    def check(self, value: Any) -> None:
        """Raise SettingError unless the value lies within the bound; None is always allowed where it is the type's."""
        allowed = _alternatives(self.type)
        if value is None and types.NoneType in allowed:
            return
        if float in allowed and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        plain = tuple(typing.get_origin(t) or t for t in allowed)
        wrong_type = not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain)
        if wrong_type or (self.choices and value not in self.choices):
            raise SettingError(self.name, value, self.bound, self.help)
        if not all(_COMPARE[op][0](value, limit) for op, limit in self.bounds.items()):
            raise SettingError(self.name, value, self.bound, self.help)

    def convert(self, value: Any, where: str) -> Any:
        """Text to the field's type, other values as they are."""
        allowed = _alternatives(self.type)
        if isinstance(value, list):
            return tuple(value)
        if types.NoneType in allowed and isinstance(value, str) and value.lower() in ("none", "null", ""):
            return None
        if not isinstance(value, str) or str in allowed:
            return value
        for kind in allowed:
            if kind is bool and value.lower() in ("true", "false", "yes", "no", "1", "0"):
                return value.lower() in ("true", "yes", "1")
            if typing.get_origin(kind) is tuple:
                inner = typing.get_args(kind)[0]
                return tuple(inner(part.strip()) for part in value.split(",") if part.strip())
            if kind in (int, float):
                try:
                    return kind(value)
                except ValueError:
                    continue
        raise SettingError(f"{where}.{self.name}", value, self.bound, self.help)


def described(cls: type[Settings]) -> tuple[Field, ...]:
    """Every field of a settings class, in order."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    undocumented = [f.name for f in fields if not f.metadata.get("help")]
    if undocumented:
        raise TypeError(f"{cls.__qualname__}: settings without help: {undocumented}")
    return tuple(
        Field(f.name, hints[f.name], f.default, f.metadata["help"], f.metadata["choices"], f.metadata["bounds"])
        for f in fields
    )


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _type_name(kind: Any) -> str:
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false", types.NoneType: "none"}
    return names.get(kind, "a list")


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["model.layers=3"]` to `{"model": {"layers": "3"}}`.

    Raises:
        UsageError: a word that is not `group.name=value`.

    >>> parse_assignments(["model.layers=3", "train.lr=1e-3"])
    {'model': {'layers': '3'}, 'train': {'lr': '1e-3'}}
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        group, dot, name = path.partition(".")
        if not (equals and dot and group and name):
            raise UsageError(f"--set takes group.name=value, not {assignment!r}", "for example --set model.layers=3")
        tree.setdefault(group, {})[name] = value
    return tree


def merge(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts laid over each other, the later one winning.

    >>> merge({"model": {"kind": "cnn", "layers": 2}}, {"model": {"layers": 3}})
    {'model': {'kind': 'cnn', 'layers': 3}}
    """
    result: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merge(result[key], value) if both else (merge(value) if isinstance(value, Mapping) else value)
    return result


def recipe_names() -> list[str]:
    """The recipes that lie in the package."""
    return sorted(path.stem for path in _recipe_folder().glob("*.toml"))


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """Read a recipe: a name of `recipe_names()`, the path of a TOML file, or a run to repeat (its `config.json`).

    Raises:
        UnknownNameError: no such recipe and no such file.
        UsageError: the file is not TOML, or not JSON.
    """
    import tomllib

    path = Path(name_or_path)
    if path.is_dir():
        path = path / "config.json"
    elif path.suffix not in (".toml", ".json"):
        path = _recipe_folder() / f"{name_or_path}.toml"
    if not path.is_file():
        raise UnknownNameError("recipe", name_or_path, recipe_names())
    read = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        recipe: dict[str, Any] = read(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as a recipe ({error})", "see docs/guide/recipes.md") from error
    return recipe


def _recipe_folder() -> Path:
    return Path(__file__).parent / "recipes"


def walk(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nested dict with its dotted path."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from walk(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
