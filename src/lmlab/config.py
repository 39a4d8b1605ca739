"""Settings: frozen dataclasses whose fields carry their help and their bounds.

One description of a field serves the constructor's checks, the command line's flags and their help, recipes, the
generated documentation, the JSON schema and the keywords of `lmlab.train`:

    @dataclass(frozen=True)
    class Settings(config.Settings):
        layers: int = setting(1, "stacked layers", ge=1)

What somebody names is kept flat, by dotted paths: `{"model.kind": "lstm", "model.layers": 2, "train.minutes": 3}`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from lmlab.errors import SettingError, UnknownNameError, UsageError, shown

Named = dict[str, Any]
"""Values that somebody named, by dotted path."""

_COMPARE: dict[str, tuple[Callable[[Any, Any], bool], str, str]] = {
    "ge": (lambda v, b: v >= b, ">=", "minimum"),
    "gt": (lambda v, b: v > b, ">", "exclusiveMinimum"),
    "le": (lambda v, b: v <= b, "<=", "maximum"),
    "lt": (lambda v, b: v < b, "<", "exclusiveMaximum"),
}
_KINDS: dict[Any, tuple[str, str]] = {  # of each type: in words, and in a JSON schema
    int: ("an integer", "integer"),
    float: ("a number", "number"),
    str: ("text", "string"),
    bool: ("true or false", "boolean"),
    types.NoneType: ("none", "null"),
}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


LARGEST = 10**12
"""No integer is larger, so that arithmetic in 64 bits holds."""


def setting(default: Any, help: str, *, choices: Sequence[str] = (), **bounds: float) -> Any:
    """A dataclass field with its help and its bounds (`ge`, `gt`, `le`, `lt`, `choices`), which each of a list has."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices), "bounds": bounds})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of every group of settings: checks its bounds when made."""

    def __post_init__(self) -> None:
        for field in described(type(self)):
            field.check(field.name, getattr(self, field.name))

    @classmethod
    def make(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build from a mapping, text values (of a command line or a recipe) turned into the field's type.

        Args:
            values: name to value.
            where: the group's name, for messages: `"model"`.

        Raises:
            UnknownNameError: no setting has that name.
            SettingError: a value of the wrong type, or outside its bound; it names the path, `model.layers`.
        """
        known = {field.name: field for field in described(cls)}
        made = {}
        for name, value in values.items():
            if name not in known:
                raise UnknownNameError(f"setting of {where}", name, known)
            made[name] = known[name].convert(value)
            known[name].check(f"{where}.{name}", made[name])
        try:
            return cls(**made)
        except SettingError as error:  # settings that do not go together
            raise error.within(where) from None

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
        """The bound in words.

        >>> Field("prune", tuple[int, ...], (), "drop what is rare", (), {"ge": 0}).bound
        'a list of integers >= 0'
        """
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = " or ".join(_in_words(kind) for kind in _alternatives(self.type))
        limits = " and ".join(f"{_COMPARE[op][1]} {_shown(limit)}" for op, limit in self.bounds.items())
        return f"{kind} {limits}".strip()

    @property
    def schema(self) -> dict[str, Any]:
        """The field in JSON Schema (draft 2020-12)."""
        limits = {_COMPARE[op][2]: limit for op, limit in self.bounds.items()}
        kinds = [_in_schema(kind, limits) for kind in _alternatives(self.type)]
        kind = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        chosen = {"enum": list(self.choices)} if self.choices else {}
        return {**kind, **chosen, "description": self.help, "default": self.default}

    def check(self, path: str, value: Any) -> None:
        """Raise unless the value is of the type and within the bound; numbers are finite.

        Raises:
            SettingError: it is not; the message begins with `path`.
        """
        if any(self._is(kind, value) for kind in _alternatives(self.type)):
            return
        bound = self.bound
        if isinstance(value, float) and not math.isfinite(value):
            bound = "finite"
        elif isinstance(value, int) and value > LARGEST and not {"le", "lt"} & self.bounds.keys():
            bound = f"{bound} and at most {LARGEST:,}"
        raise SettingError(path, value, bound, self.help)

    def _is(self, kind: Any, value: Any) -> bool:
        if typing.get_origin(kind) is tuple:
            return isinstance(value, tuple) and all(self._is(typing.get_args(kind)[0], each) for each in value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return False
        if self.choices and value not in self.choices:
            return False
        if kind is float and not math.isfinite(value):
            return False
        if kind is int and value > LARGEST:
            return False
        return kind not in (int, float) or all(_COMPARE[op][0](value, limit) for op, limit in self.bounds.items())

    def convert(self, value: Any) -> Any:
        """Text to the field's type, a list to a tuple; what cannot be converted stays as it is, for `check` to refuse.

        >>> field = Field("prune", tuple[int, ...], (), "drop what is rare", (), {})
        >>> field.convert("0,0,1"), field.convert("0 0 1"), field.convert([0, 1]), field.convert("0;1")
        ((0, 0, 1), (0, 0, 1), (0, 1), ('0;1',))
        """
        for kind in _alternatives(self.type):
            converted = _converted(kind, value)
            if converted is not value:
                return converted
        return value


def _converted(kind: Any, value: Any) -> Any:
    """The value as this type, or the value itself."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if isinstance(value, str):
            value = [part for part in re.split(r"\s*,\s*" if inner is str else r"[\s,]+", value.strip()) if part]
        return tuple(_converted(inner, part) for part in value) if isinstance(value, list) else value
    if not isinstance(value, str):
        return value
    if kind is types.NoneType:
        return None if value.lower() in ("none", "null", "") else value
    if kind is bool:
        return _BOOLEANS.get(value.lower(), value)
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            return value
    return value


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The types of a union, none first: `none` written for an optional text is no text."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return tuple(sorted(kinds, key=lambda one: one is not types.NoneType))


def _shown(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) is not tuple:
        return _KINDS[kind][0]
    inner = _KINDS[typing.get_args(kind)[0]][0].removeprefix("an ").removeprefix("a ")
    return f"a list of {inner if inner == 'text' else inner + 's'}"


def _in_schema(kind: Any, limits: Mapping[str, float]) -> dict[str, Any]:
    if typing.get_origin(kind) is tuple:
        return {"type": "array", "items": _in_schema(typing.get_args(kind)[0], limits)}
    return {"type": _KINDS[kind][1], **(limits if kind in (int, float) else {})}


def described(cls: type[Settings]) -> tuple[Field, ...]:
    """Every field of a settings class, in order."""
    return _described(typing.cast(Any, cls))


@functools.cache
def _described(cls: Any) -> tuple[Field, ...]:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    undocumented = [f.name for f in fields if not f.metadata.get("help")]
    if undocumented:
        raise TypeError(f"{cls.__qualname__}: settings without help: {undocumented}")
    return tuple(
        Field(f.name, hints[f.name], f.default, f.metadata["help"], f.metadata["choices"], f.metadata["bounds"])
        for f in fields
    )


def schema(cls: type[Settings]) -> dict[str, Any]:
    """A group of settings in JSON Schema."""
    properties = {field.name: field.schema for field in described(cls)}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def parse_assignments(assignments: Sequence[str]) -> Named:
    """What `--set` is given, by path.

    Raises:
        UsageError: a word that is not `group.name=value`.

    >>> parse_assignments(["model.layers=3", "train.lr=1e-3"])
    {'model.layers': '3', 'train.lr': '1e-3'}
    """
    named: Named = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        group, dot, name = path.partition(".")
        if not (equals and dot and group and name):
            raise UsageError(f"--set takes group.name=value, not {assignment!r}", "for example --set model.layers=3")
        named[path] = value
    return named


def recipe_names() -> list[str]:
    """The recipes that lie in the package."""
    return sorted(path.stem for path in _recipe_folder().glob("*.toml"))


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """Read a recipe: a name of `recipe_names()`, the path of a TOML file, or a run to repeat (its `config.json`).

    Raises:
        UnknownNameError: no such recipe and no such file.
        UsageError: the file is not TOML, or not JSON, or holds no table.
    """
    import tomllib

    from lmlab.disk import exists
    from lmlab.packed import is_packed, pieces

    path = Path(name_or_path)
    if exists(path) and (path.is_dir() or is_packed(path)):
        path = path / "config.json"
    elif path.suffix not in (".toml", ".json"):
        path = _recipe_folder() / f"{name_or_path}.toml"
    if not path.is_file() and not path.parent.is_file():
        raise UnknownNameError("recipe", name_or_path, recipe_names())
    try:
        text = b"".join(pieces(path)).decode()
        recipe = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as a recipe ({error})", "see docs/guide/recipes.md") from error
    if not isinstance(recipe, dict):
        raise UsageError(
            f"{path} cannot be read as a recipe ({shown(recipe)} is no table)", "see docs/guide/recipes.md"
        )
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
