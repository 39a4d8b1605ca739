import subprocess
import sys

import pytest

from lmlab.corpora import DataSettings
from lmlab.corpora.settings import SPLITS, parse_split, parse_template
from lmlab.errors import SettingError


@pytest.mark.parametrize(
    "split",
    [
        "0.5,0.6,0.1",
        "1.1,-0.1,0",
        "0.9,0.1",
        "half",
        "0.9,0.05,nan",
        "",
        "train 0.5, train 0.4, test 0.1",
        "train 0.9, dev 0.05, test 0.05",
        "train 0.9, 0.05, 0.05",
        "train 0.9, valid 0.05, test 0.05, more 0",
        "0.9,0.05,0.05,0",
        "train 0.5, train 0.9, valid 0.05, test 0.05",
    ],
)
def test_shares_that_do_not_add_up_are_refused(split):
    with pytest.raises(SettingError, match="sum to 1"):
        DataSettings(split=split)


def test_shares_within_rounding_are_accepted():
    assert parse_split("0.9,0.05,0.0500005") == ((0.9, 0.05, 0.0500005), SPLITS)


@pytest.mark.parametrize("template", ["no field", "{open", "{}", "{title:>10}", "{title!r}", ""])
def test_template_without_plain_fields_is_refused(template):
    with pytest.raises(SettingError, match="template"):
        DataSettings(template=template)


def test_template_keeps_escaped_braces():
    assert parse_template("{{{a}}}") == (("{", None), ("", "a"), ("}", None))


def test_template_and_field_exclude_each_other():
    with pytest.raises(SettingError, match="choose one"):
        DataSettings(template="{a}", text_field="a")


@pytest.mark.parametrize("values", [{"max_chars": 0}, {"limit": 0}, {"unit": "page"}, {"errors": "ignore"}])
def test_bounds(values):
    with pytest.raises(SettingError, match=next(iter(values))):
        DataSettings(**values)


def test_settings_from_command_line_text():
    settings = DataSettings.make({"max_chars": "512", "columns": "a,b", "limit": "none"}, "data")
    assert settings == DataSettings(max_chars=512, columns=("a", "b"))


def test_importing_the_package_imports_neither_numpy_nor_torch():
    code = "import sys, lmlab.corpora; print([m for m in ('numpy', 'torch', 'zstandard') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
