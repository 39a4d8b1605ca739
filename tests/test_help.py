"""`help` of every public function names its keywords with their defaults, and its docstring says what each is."""

import inspect
import pydoc

import pytest

import lmlab
from lmlab.config import described
from lmlab.facade.estimate import import_arpa
from lmlab.models.ngram import Ngram
from lmlab.tokens import Tokenizer
from lmlab.train_settings import TrainSettings

FUNCTIONS = {name: getattr(lmlab, name) for name in lmlab.__all__ if inspect.isfunction(getattr(lmlab, name))}
FUNCTIONS["import_arpa"] = import_arpa
METHODS = {
    f"{cls.__name__}.{name}": member
    for cls in (lmlab.TextModel, Tokenizer)
    for name, member in inspect.getmembers(cls, inspect.isroutine)
    if not name.startswith("_")
}
PUBLIC = {name: each for name, each in (FUNCTIONS | METHODS).items() if callable(each)}


@pytest.mark.parametrize("name", PUBLIC)
def test_help_names_every_keyword_with_its_default(name):
    function = PUBLIC[name]
    shown = pydoc.plain(pydoc.render_doc(function))
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.name in shown
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            assert f" = {parameter.default!r}" in shown
    assert inspect.getdoc(function)


@pytest.mark.parametrize("name", [name for name in PUBLIC if not name.startswith("Tokenizer")])
def test_the_docstring_says_what_each_is(name):
    doc = inspect.getdoc(PUBLIC[name])
    wrapped = inspect.signature(PUBLIC[name]).parameters.values()
    own = [p.name for p in wrapped if p.name not in ("self", "cls", *SETTINGS)]
    if len(own) > 1 and "takes the same arguments" not in doc and "**options: of `TextModel.filter`" not in doc:
        assert all(f"{name}: " in doc for name in own), [n for n in own if f"{n}: " not in doc]


SETTINGS = {*lmlab.facade.keywords.Keywords.__annotations__}


def test_settings_are_shown_with_their_own_defaults():
    shown = pydoc.plain(pydoc.render_doc(lmlab.train))
    assert "batch_size: 'int' = " in shown or "batch_size: int = " in shown
    parameters = inspect.signature(lmlab.train).parameters
    fixed = {field.name: field.default for field in described(TrainSettings)}
    for name in ("steps", "clip_value", "evaluate_every", "sample_prompt"):
        assert repr(parameters[name].default) == repr(fixed[name])
    assert repr(parameters["vocab_size"].default) == repr(parameters["lr"].default) == "<by kind>"
    estimate = inspect.signature(lmlab.estimate).parameters
    assert {field.name for field in described(Ngram.Settings)} <= estimate.keys()
    assert "hidden" not in estimate


def test_what_help_shows_as_a_default_is_not_named():
    lm = lmlab.train(text="to be or not to be. " * 20, model="ngram", order=2)
    assert lm.config.named == {"source", "model.kind", "model.order"}
