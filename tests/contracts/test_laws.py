"""Every registered model x every law."""

import pytest

from lmlab import registry
from lmlab.models.base import LanguageModel, Storable
from lmlab.testing import LAWS, laws_for

from .zoo import ADAPTED, SMOOTHINGS, ZOO, build

MEMBERS, ADAPTED_MEMBERS = (
    [pytest.param(name, variant, id=f"{name}-{variant}") for name in models for variant in models[name]]
    for models in (ZOO, ADAPTED)
)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("name", "variant"), MEMBERS + ADAPTED_MEMBERS)
def test_law(name, variant, law):
    model = build(name, variant)
    if law not in laws_for(model):
        pytest.skip("the model does not declare what this law is about")
    law(model)


def test_the_zoo_holds_every_registered_model():
    assert sorted(ZOO) == registry.names("model")


def test_the_zoo_holds_every_smoothing():
    from lmlab.models.ngram.smoothing import SMOOTHINGS as OFFERED

    assert sorted(SMOOTHINGS) == sorted(OFFERED)


@pytest.mark.parametrize(("name", "variant"), MEMBERS)
def test_members_are_what_the_registry_promises(name, variant):
    model = build(name, variant)
    registered = registry.resolve("model", name)
    assert isinstance(model, LanguageModel)
    assert isinstance(model, Storable)
    assert registered.family in ("counted", "neural", "composed")
    assert isinstance(model.settings, registered.Settings)


def test_only_stupid_backoff_is_excused_from_sums():
    excused = {(n, v) for n in ZOO for v in ZOO[n] if LAWS[0] not in laws_for(build(n, v))}
    assert excused == {("ngram", f"stupid-backoff-{order}") for order in (1, 2, 3, 5)}
