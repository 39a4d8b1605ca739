"""A run's model adapted to what it reads (`--adapt`) and mixed with those of other runs (`--mix`).

    dynamic:lr=0.001,decay=0.01    an adaptation, and those of its settings that are not to be fitted
    runs/kn6:0.3                   another run, and its weight

The run's own model adapts first (dynamic, online), then it is mixed with the others; counts lie around the
whole. With online those mixed in that can learn as they read do so too, and so do the weights, of a log-linear mixture.
What is not named is fitted on the run's own validation split, never on the text to be scored: weights by expectation
maximisation, learning rates and the like by a small search. The results are kept, so that each is fitted once.

Shapes: M components of a mixture, N tokens, P all weights of a network laid end to end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from lmlab import scoring
from lmlab.config import Settings, described
from lmlab.errors import SettingError, UnknownNameError, UsageError
from lmlab.facade.fitting import Fitting, Found, Run, head, identity, mean_nats, tensors
from lmlab.models.adaptive.dynamic import Dynamic, gradient_rms
from lmlab.models.adaptive.gate import Gate, Gated, fit_gate
from lmlab.models.adaptive.online import Online
from lmlab.models.adaptive.recount import Recount, fit_counts
from lmlab.models.base import LanguageModel
from lmlab.models.mixture import Mixture, fit_weights
from lmlab.models.neural.base import NeuralModel
from lmlab.models.scorers import Blend, documents
from lmlab.progress import Reporter

ADAPTATIONS: dict[str, type[Settings]] = {
    "dynamic": Dynamic.Settings,
    "counts": Recount.Settings,
    "online": Online.Settings,
}
"""The settings of each adaptation; counts adapt the whole composition, all others a run's own model."""
_SGD = {"rule": "sgd", "lr": 0.1, "decay": 0.001}  # where the search begins under that rule
_MIX_TOKENS = 500_000  # that weights are fitted on, where nothing adapts
_LEAST_GATED = 5_000  # with fewer tokens to fit on, weights stay constant


def compose(
    lm: Run, adapt: str | None, mixed: Sequence[str], reporter: Reporter
) -> tuple[LanguageModel, dict[str, Any]]:
    """A text model's model as asked for, and the entries of its protocol.

    Args:
        lm: the run.
        adapt: `NAME[:setting=value,...]`, NAME being dynamic, online, counts, or several joined by +.
        mixed: `RUN[:weight]` each.
        reporter: receives progress.

    Raises:
        UsageError: a specification that cannot be.
        ArtifactError: a run that cannot be read.
    """
    if lm.composition:
        raise UsageError("this model is composed already", "name its adaptation and all its components at once")
    if adapt is not None and not isinstance(adapt, str):
        raise SettingError("adapt", adapt, "text, as 'dynamic+counts'")
    if not isinstance(mixed, list | tuple) or not all(isinstance(spec, str | Path) for spec in mixed):
        raise SettingError("mix", mixed, "a list of runs, each with its weight if wanted, as ['runs/kn6:0.3']")
    named = parse_adaptation(adapt) if adapt is not None else {}
    specs = [parse_component(str(spec)) for spec in mixed]
    others = [_opened(run, lm) for run, _ in specs]
    given = _all_weights([weight for _, weight in specs])
    fitting, protocol = Fitting(lm, reporter), dict[str, Any]()
    own = _adapted(fitting, named, protocol, alone=not others)
    models = [_online(other.model) if "online" in named else other.model for other in others]
    components = _Components(fitting, (own, *models), others, {**protocol})
    mixed_model = _mixed(components, given, named.get("online"), protocol) if others else None
    model = mixed_model or own
    if "counts" in named:
        model = _recounted(components, mixed_model, named["counts"], protocol)
    if named:
        protocol["adapted"] = f"what is learned is {scoring.ADAPTED}"
    return model, protocol


# -- what is named ----------------------------------------------------------------------------------------------------


def parse_adaptation(spec: str) -> dict[str, dict[str, str]]:
    """The adaptations of a specification, each with the settings named for it.

    Raises:
        UsageError: no such adaptation, or no such setting.

    >>> parse_adaptation("dynamic+counts:lr=0.001,weight=0.2")
    {'dynamic': {'lr': '0.001'}, 'counts': {'weight': '0.2'}}
    """
    kinds, _, values = spec.partition(":")
    named: dict[str, dict[str, str]] = {}
    for kind in kinds.split("+"):
        if kind == "cache":
            raise UsageError("--adapt cache is no more", "take counts, which were better on every text measured")
        if kind not in ADAPTATIONS:
            raise UnknownNameError("adaptation", kind, ADAPTATIONS)
        named[kind] = {}
    known = {field.name: kind for kind in named for field in described(ADAPTATIONS[kind])}
    for assignment in filter(None, values.split(",")):
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--adapt takes setting=value, not {assignment!r}", "for example dynamic:lr=0.001")
        if name not in known:
            raise UnknownNameError(f"setting of {kinds}", name, known)
        named[known[name]][name] = value
    for kind, settings in named.items():
        ADAPTATIONS[kind].make(settings, kind)  # checks the values
    return named


def parse_component(spec: str) -> tuple[str, float | None]:
    """A run, or a Hugging Face model (`hf:PATH`), and its weight, None where none is named.

    Raises:
        SettingError: a weight outside 0 to 1.

    >>> parse_component("runs/kn6:0.3"), parse_component("runs/kn6")
    (('runs/kn6', 0.3), ('runs/kn6', None))
    """
    run, colon, text = spec.rpartition(":")
    if not colon or run == "hf" or Path(spec).exists():
        return spec, None
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1:
        raise SettingError(f"the weight of {run}", text, "a number >= 0 and <= 1", "leave it out to have it fitted")
    return run, weight


def _all_weights(named: Sequence[float | None]) -> list[float | None]:
    """The weights of all components, the run's own first; None where they are to be fitted."""
    total = sum(weight or 0 for weight in named)
    if total > 1:
        raise UsageError(f"the weights of --mix sum to {total:g}, but may to 1 at most", "lower some, or name none")
    return [1 - total if None not in named else None, *named]


def _opened(run: str, lm: Run) -> Run:
    """Another run, whose tokens must be the same."""
    other = type(lm).load(run)
    there, here = other.tokenizer, lm.tokenizer
    if there.reference().to_str() == here.reference().to_str():
        return other
    pairs = enumerate(zip(there.tokens, here.tokens, strict=False))
    if (there.kind, there.vocab_size) != (here.kind, here.vocab_size):
        reason = f"{there.kind}, {there.vocab_size} tokens; this run {here.kind}, {here.vocab_size} tokens"
    elif first := next(((id, theirs, ours) for id, (theirs, ours) in pairs if theirs != ours), None):
        reason = f"id {first[0]} is {first[1]!r}, in this run {first[2]!r}"
    else:
        reason = "the same tokens, found otherwise"
    raise UsageError(f"{run} has another vocabulary ({reason})", "train both on one text, with one tokenizer")


# -- the run's own model ----------------------------------------------------------------------------------------------


def _online(model: LanguageModel) -> LanguageModel:
    """The model as it goes on learning from what it reads, if it can."""
    online = getattr(model, "online", None)
    return model if online is None else cast(LanguageModel, online())


def _adapted(
    fitting: Fitting, named: Mapping[str, Mapping[str, str]], protocol: dict[str, Any], *, alone: bool
) -> LanguageModel:
    """The run's own model, adapted as named."""
    own: LanguageModel = fitting.lm.model
    if "online" in named:
        learning = _online(own)
        if "dynamic" in named if learning is not own else alone:
            problem = f"--adapt {'+'.join(named)}: online is the way of models that learn by counting, and of mixtures"
            raise UsageError(problem, "train one with --model cm, and name no other way for it but counts")
        own, protocol["adaptation"] = learning, {"online": {}}
    if "dynamic" not in named:
        return own
    if fitting.lm.model.family != "neural":
        kind = fitting.lm.config.model.kind
        problem = f"--adapt dynamic needs a neural model, but this run's is {kind}"
        raise UsageError(problem, "mix one in with --mix")
    network = cast(NeuralModel, fitting.lm.model)
    dynamic = _dynamic(fitting, network, named["dynamic"])
    protocol.setdefault("adaptation", {})["dynamic"] = dynamic.settings.dump()
    return dynamic


def _dynamic(fitting: Fitting, network: NeuralModel, named: Mapping[str, str]) -> Dynamic:
    """Dynamic evaluation with the settings named, the others fitted, or at their defaults without a validation split.

    The gradients are then measured on training text, as in the paper; where that is not kept either, steps are plain.
    """
    text = fitting.trial()
    plain = named.get("rule", "rms" if text else "sgd") == "sgd"
    settings = Dynamic.Settings.make({**(_SGD if plain else {}), **named}, "dynamic")
    free = {name: getattr(settings, name) for name in ("lr", "decay") if name not in named and fitting.text}
    if settings.lr == 0 or not text or (plain and not free):
        return Dynamic(network, settings)

    def fit() -> Found:
        rms_P = None
        if not plain:
            with fitting.reporter.stage("measuring gradients", sum(map(len, text)), " tokens") as advance:
                rms_P = gradient_rms(network, text, settings.segment, advance)

        def cost(values: Mapping[str, float]) -> float:
            return mean_nats(Dynamic(network, _with(settings, values), rms_P).logp_stream(text))

        found = fitting.search("dynamic", free, cost) if free else {}
        return found if rms_P is None else {**found, "rms_P": rms_P}

    found = fitting.once([settings.dump(), sorted(free)], fit)
    return Dynamic(network, _with(settings, {name: found[name].item() for name in free}), found.get("rms_P"))


def _with(settings: Any, values: Mapping[str, float]) -> Any:
    return dataclasses.replace(settings, **values)


# -- the whole --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Components:
    """The models that are mixed: the run's own, adapted or not, then those of other runs."""

    fitting: Fitting
    models: tuple[LanguageModel, ...]
    others: Sequence[Run]
    protocol: Mapping[str, Any]  # its entries about the run's own model

    @property
    def key(self) -> list[Any]:
        """What distinguishes them from other components of the same run."""
        return [self.protocol, [identity(other) for other in self.others]]

    @cached_property
    def scores(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The beginning of the validation split, and what each component gives its tokens: logp_MN."""
        fitting, logp = self.fitting, []
        assert fitting.text is not None
        text = head(2 * fitting.trial_tokens if self.protocol else _MIX_TOKENS, fitting.text)
        with fitting.reporter.stage("scoring the validation split by each component", len(self.models)) as advance:
            for model in self.models:
                logp.append(scoring.token_logp(model, text))
                advance(len(logp))
        return list(documents(text.ids)), np.stack(logp)


def _mixed(
    components: _Components, given: Sequence[float | None], online: Mapping[str, str] | None, protocol: dict[str, Any]
) -> Mixture | Gated | Online:
    """The components weighed as given; or by expectation maximisation; or, where nothing is given, by a gate.

    With settings of online learning, weights begin so, or equal where nothing is there to fit them on.
    """
    fitting, others = components.fitting, components.others
    known = [weight for weight in given if weight is not None]
    fitted = len(known) < len(given)
    if not known and fitting.text is None and online is not None:
        known, fitted = [1 / len(given)] * len(given), False
    if fitted and fitting.text is None:
        raise UsageError("this run has no validation split to fit weights on", "name each: --mix RUN:0.3")
    for doubt in filter(None, (_may_have_seen(fitting.lm, other) for other in others)):
        if fitted:
            raise UsageError(doubt, "train both with one --split, or name a weight")
        fitting.reporter.say(f"mind: {doubt}")
        protocol.setdefault("doubts", []).append(doubt)
    gated = not known and online is None and fitting.text is not None and fitting.text.tokens >= _LEAST_GATED

    def fit() -> Found:
        _, logp_MN = components.scores
        found = {"weights_M": fit_weights(logp_MN, given=given)} | (vars(fit_gate(logp_MN)) if gated else {})
        return {name: torch.from_numpy(value) for name, value in found.items()}

    found = fitting.once([*components.key, list(given), gated], fit) if fitted else {}
    weights = found["weights_M"].tolist() if fitted else known
    names = ["this run", *(str(other.folder) for other in others)]
    protocol["mixture"] = [{"component": name, "weight": w} for name, w in zip(names, weights, strict=True)]
    if online is not None:
        settings = Online.Settings.make(online, "online")
        protocol["adaptation"]["online"] = settings.dump()
        return Online(settings, components.models, weights)
    if not gated:
        return Mixture(Mixture.Settings("linear", tuple(weights)), components.models)
    protocol["gate"] = (
        "these are the best constant weights; a gate moves them as each component predicts the last tokens"
    )
    return Gated(components.models, Gate(found["inner"].numpy(), found["outer"].numpy()))


def _may_have_seen(lm: Run, other: Run) -> str:
    """Why another run may have been trained on what this one held out; empty if it was not."""
    here, there = lm.manifest["data"], other.manifest["data"]
    if there.get("sha256") != here["sha256"] or there.get("split_rule") == here["split_rule"]:
        return ""
    rule = there.get("split_rule")
    return f"{other.folder} splits the same text otherwise ({rule}), so it may know what this run held out"


def _recounted(
    components: _Components, mixed: Mixture | Gated | Online | None, named: Mapping[str, str], protocol: dict[str, Any]
) -> Recount:
    """The whole with counts of the text around it: the settings named, the others fitted on held-out text."""
    fitting, settings = components.fitting, Recount.Settings.make(named, "counts")
    free = [name for name in ("discount", "strength", "weight") if name not in named]
    if not {"shortest", "longest"} & set(named):
        free.append("contexts")

    def fit() -> Found:
        text, logp_MN = components.scores
        logp_N = logp_MN[0]
        if mixed is not None:
            scorer, ids_N = cast(Blend, mixed.scorer()), np.concatenate(text)
            blend = scorer.blend
            given = scorer.token_logp(ids_N) if blend is None else blend(text, iter([logp_MN]))
            logp_N = np.concatenate([*given])
        with fitting.reporter.stage("choosing how counts are weighed"):
            return tensors(fit_counts(text, logp_N, settings, free).dump())

    if free and fitting.text is not None:
        found = fitting.once([*components.key, protocol.get("mixture"), settings.dump(), free], fit)
        settings = Recount.Settings(**{name: type(getattr(settings, name))(value) for name, value in found.items()})
    protocol["adaptation"] = {**protocol.get("adaptation", {}), "counts": settings.dump()}
    return Recount(mixed or components.models[0], settings)
