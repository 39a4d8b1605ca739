"""Every setting has bounds, each is tried at its bound and one beyond."""

import math
import typing

import pytest

from lmlab import registry
from lmlab.config import LARGEST, described
from lmlab.corpora.settings import DataSettings
from lmlab.errors import SettingError, UsageError
from lmlab.run_config import RunConfig
from lmlab.train_settings import TrainSettings

GROUPS = {
    "data": DataSettings,
    "train": TrainSettings,
    **{f"model {name}": registry.resolve("model", name).Settings for name in registry.names("model")},
    **{f"tokenizer {name}": registry.resolve("tokenizer", name).Settings for name in registry.names("tokenizer")},
}
FIELDS = [(group, field) for group, cls in GROUPS.items() for field in described(cls)]
EVERY = pytest.mark.parametrize(("group", "field"), FIELDS, ids=[f"{group}.{field.name}" for group, field in FIELDS])


def kinds(field):
    return {part for part in (field.type, *typing.get_args(field.type)) if isinstance(part, type)}


def as_given(field, value):
    """A list where the field is one."""
    lists = any(typing.get_origin(kind) is tuple for kind in (field.type, *typing.get_args(field.type)))
    return (value,) if lists else value


def make(group, field, value):
    return GROUPS[group].make({field.name: as_given(field, value)}, group.split()[0])


def numbers(field):
    """The numbers at its bounds and just beyond them: (inside, outside)."""
    whole, bounds = int in kinds(field), field.bounds
    step = 1 if whole else 1e-9
    inside, outside = [], []
    for name, direction in (("ge", -1), ("le", 1), ("gt", -1), ("lt", 1)):
        if name in bounds:
            exact = bounds[name]
            closed = name in ("ge", "le")
            beyond = exact + direction * max(step, abs(exact) * 1e-12 if not whole else 0)
            inside.append(exact if closed else exact - direction * step)
            outside.append(beyond if closed else exact)
    if whole and not {"le", "lt"} & bounds.keys():
        inside.append(LARGEST)
        outside.append(LARGEST + 1)
    return inside, [*outside, *([] if whole else [math.nan, math.inf, -math.inf])]


@EVERY
def test_each_number_at_its_bound_and_one_beyond(group, field):
    if not {int, float} & kinds(field):
        assert not field.bounds
        return
    inside, outside = numbers(field)
    for value in inside:
        told = ""
        try:
            make(group, field, value)
        except SettingError as error:  # another rule may bind it to another setting, and then says so
            told = str(error)
        assert field.bound not in told
    for value in outside:
        with pytest.raises(SettingError) as told:
            make(group, field, value)
        message = str(told.value)
        assert message.startswith(f"{group.split()[0]}.{field.name} is ")
        assert "\n" not in message


WRONG = [10**400, -(10**400), 1e308, "", "x", "\ud800", "\0", "nan", "1e9", [], [[]], {}, {"a": 1}, True, None, b"x"]


@EVERY
def test_whatever_is_given_is_a_setting_or_told_in_one_line(group, field):
    told = []
    for value in WRONG:
        try:
            GROUPS[group].make({field.name: value}, group.split()[0])
        except UsageError as error:
            told.append(str(error))
    assert len(told) > 3
    assert all("\n" not in message and field.name in message for message in told)


@EVERY
def test_the_command_line_knows_the_bound(group, field):
    """What `--set` gives is text."""
    kind, _, name = group.partition(" ")
    tables = {f"{kind}.kind": name} if name else {}
    if {int, float} & kinds(field):
        for value in numbers(field)[1]:
            with pytest.raises(UsageError) as told:
                RunConfig.build({"source": "x", **tables, f"{kind}.{field.name}": str(value)})
            assert f"{kind}.{field.name} is " in str(told.value)
