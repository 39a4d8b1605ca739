import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import lmlab
from lmlab import registry
from lmlab.config import Settings
from lmlab.errors import UnknownNameError, UsageError
from lmlab.models.base import LanguageModel, Storable
from lmlab.tokens.base import Tokenizer
from tests.texts import TEXT


@pytest.mark.parametrize("name", registry.names("model"))
def test_a_model_is_a_member_of_the_waist(name):
    model = registry.resolve("model", name)
    for power in ("start", "step", "save", "load"):
        assert callable(getattr(model, power))
    assert issubclass(model.Settings, Settings)
    assert model.family in ("counted", "neural", "composed")


@pytest.mark.parametrize("name", registry.names("tokenizer"))
def test_a_tokenizer_is_one(name):
    tokenizer = registry.resolve("tokenizer", name)
    assert issubclass(tokenizer, Tokenizer)
    assert issubclass(tokenizer.Settings, Settings)


def test_a_built_model_answers_to_the_protocols():
    model = registry.resolve("model", "cnn")
    built = model(model.Settings(channels=2, embedding=2, layers=1), 6)
    assert isinstance(built, LanguageModel)
    assert isinstance(built, Storable)


def test_names_are_sorted_and_import_nothing():
    code = (
        "import sys; from lmlab import registry; names = registry.names('model');"
        "assert names == sorted(names) and 'lstm' in names;"
        "print([m for m in sys.modules if m in ('torch', 'lmlab.models.neural.rnn', 'lmlab.models.ngram')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'transformer'"):
        registry.resolve("model", "transfomer")


@pytest.fixture
def installed(monkeypatch):
    """Have these names of models registered by other packages, as (name, value) pairs."""

    def install(*points):
        found = [EntryPoint(name, value, "lmlab.models") for name, value in points]
        monkeypatch.setattr(registry, "_table", registry._table.__wrapped__)  # which remembers nothing
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found if group == "lmlab.models" else [])

    return install


def test_another_package_adds_a_name(installed):
    installed(("abacus", "fractions:Fraction"))
    assert "abacus" in registry.names("model")
    assert "abacus" not in registry.names("tokenizer")
    assert registry.resolve("model", "abacus").__name__ == "Fraction"


@pytest.mark.parametrize("points", [[("lstm", "theirs:LSTM")], [("abacus", "ours:A"), ("abacus", "theirs:LSTM")]])
def test_a_name_claimed_twice_is_an_error_that_names_both(installed, points):
    installed(*points)
    name = points[0][0]
    first = "lmlab.models.neural.rnn:LSTM" if len(points) == 1 else "ours:A"
    message = f"two models are called {name!r}: {first} and theirs:LSTM of .*: uninstall one"
    with pytest.raises(UsageError, match=message):
        registry.names("model")
    with pytest.raises(UsageError, match=message):
        registry.resolve("model", name if len(points) == 2 else "another")
    with pytest.raises(UsageError, match=message):
        lmlab.train(text=TEXT, model="ngram", order=2)


def test_a_package_that_is_found_twice_is_one(installed):
    installed(("abacus", "fractions:Fraction"), ("abacus", "fractions:Fraction"))
    assert registry.names("model").count("abacus") == 1


@pytest.mark.parametrize("value", ["no_such_package:Model", "fractions:NoSuchModel"])
def test_a_package_that_cannot_be_imported_is_named(installed, value):
    installed(("abacus", value))
    with pytest.raises(UsageError, match=rf"the model 'abacus' \({value}\) cannot be imported"):
        registry.resolve("model", "abacus")
