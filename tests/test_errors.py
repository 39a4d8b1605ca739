import inspect

import pytest

from lmlab import errors
from lmlab.errors import LmlabError, SettingError, UnknownNameError, UsageError

EVERY = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def test_one_root_catches_everything():
    assert all(issubclass(kind, LmlabError) for kind in EVERY)


def test_the_tree_in_the_docstring_is_the_tree():
    told = {word for line in errors.__doc__.splitlines() for word in line.split() if word.endswith("Error")}
    assert told == {kind.__name__ for kind in EVERY}


@pytest.mark.parametrize("kind", EVERY)
def test_only_wrong_usage_exits_with_2(kind):
    assert kind.exit_code == (2 if issubclass(kind, UsageError) else 1)


def test_problem_and_remedy_share_a_line():
    assert str(LmlabError("the disk is full", "free some space")) == "the disk is full: free some space"
    assert str(LmlabError("the disk is full")) == "the disk is full"


def test_whatever_it_quotes_it_is_one_line():
    message = str(LmlabError("a\nb\r\nc\u2028d " + 5000 * "x", "look into\nthe file"))
    assert len(message.splitlines()) == 1
    assert message.startswith("a b c d xxx")
    assert message.endswith("x…: look into the file")
    assert len(message) < 1100


def test_a_setting_names_value_bound_and_remedy():
    assert (
        str(SettingError("lr", "fast", "a number > 0", "try 1e-3"))
        == "lr is 'fast', but must be a number > 0: try 1e-3"
    )


def test_the_nearest_name_is_offered_and_all_are_listed():
    message = str(UnknownNameError("model", "lsmt", {"lstm": 1, "gru": 2}))
    assert "no model is called 'lsmt'" in message
    assert "did you mean 'lstm'?" in message
    assert message.endswith("There are gru, lstm")


def test_nothing_near_offers_nothing():
    assert "did you mean" not in str(UnknownNameError("model", "zzzz", ["lstm", "gru"]))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.RunExistsError("runs/a"), ("runs/a", "-o", "--resume")),
        (errors.MissingExtraError("parquet", "parquet"), ("parquet", "pip install 'lmlab[parquet]'")),
    ],
)
def test_the_remedy_can_be_typed(error, told):
    assert all(word in str(error) for word in told)
    assert "\n" not in str(error)
