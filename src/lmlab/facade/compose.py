"""A run's model adapted to what it reads (`--adapt`) and mixed with those of other runs (`--mix`).

    dynamic:lr=0.001,decay=0.01    an adaptation, and what of its settings is not to be chosen
    runs/kn6:0.3                   another run, and its weight

What is not named is fitted on the run's own validation split, never on the text to be scored: weights by expectation
maximisation, learning rates and the like by a small search. It is kept in the cache under a key of the model, the
tokenizer and what was named, so that it is fitted once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lmlab import disk, scoring
from lmlab.config import Settings, described
from lmlab.corpora import cache_dir
from lmlab.errors import SettingError, UnknownNameError, UsageError
from lmlab.models.adaptive.dynamic import Dynamic, gradient_rms
from lmlab.models.adaptive.gate import Gate, Gated, fit_gate
from lmlab.models.adaptive.neural_cache import NeuralCache
from lmlab.models.adaptive.recount import Recount, fit_counts
from lmlab.models.base import Blend, LanguageModel
from lmlab.models.mixture import LinearMixture, Mixture, fit_weights, mix
from lmlab.models.neural.base import NeuralModel
from lmlab.progress import Reporter
from lmlab.tokens.id_store import TokenStore

if TYPE_CHECKING:
    from lmlab.facade.text_model import TextModel

_Found = dict[str, Tensor]
_VERSION = 2  # of what is kept: changes when it is fitted otherwise
KINDS: dict[str, type[Settings]] = {
    "dynamic": Dynamic.Settings,
    "cache": NeuralCache.Settings,
    "counts": Recount.Settings,
}
"""The adaptations, and what each has to set; the first two are of a run's own model, the last of the whole."""
_SEARCHED = {"lr": 1.0, "decay": 0.5, "theta": 1e3, "lam": 0.8}  # and how large each may become
_TRIALS = {"dynamic": 9, "cache": 16}
_SGD = {"lr": 0.1, "decay": 0.001}  # where the search begins under that rule
_TRIAL_TOKENS = 20_000  # of a model of up to a million weights or so; a larger one reads fewer
_LEARNED_CHARS = 10 * _TRIAL_TOKENS  # of training text that gradients are measured on
_LEAST_TOKENS = 2_000
_WORK = 24e9  # weights times tokens of a trial
_MIX_TOKENS = 500_000  # that weights are fitted on, where nothing adapts
_LEAST_GATED = 5_000  # with fewer tokens to fit on, weights stay constant


def compose(
    lm: TextModel, adapt: str | None, mixed: Sequence[str], reporter: Reporter
) -> tuple[LanguageModel, dict[str, Any]]:
    """A text model's model as asked for, and what its protocol says of it.

    Args:
        lm: the run.
        adapt: `NAME[:setting=value,...]`, NAME being dynamic, cache, counts, or several joined by +.
        mixed: `RUN[:weight]` each.
        reporter: is told of progress.

    Raises:
        UsageError: a specification that cannot be.
        ArtifactError: a run that cannot be read.
    """
    if lm.composition:
        raise UsageError("this model is composed already", "name its adaptation and all its parts at once")
    named = parse_adaptation(adapt) if adapt is not None else {}
    counts = named.pop("counts", None)
    opened = [_opened(*parse_part(spec), lm) for spec in mixed]
    weights = _given([weight for _, weight in opened])
    fitting = _Fitting(lm, reporter)
    model, said = _adapted(fitting, named)
    parts = _Parts((model, *(part.model for part, _ in opened)), tuple(part for part, _ in opened), dict(said))
    if opened:
        model = _mixed(fitting, parts, weights, said)
    if counts is not None:
        model = _recounted(fitting, parts, model, counts, said)
    if named or counts is not None:
        said["adapted"] = f"what is learned is {scoring.ADAPTED}"
    return model, said


# -- what is named ----------------------------------------------------------------------------------------------------


def parse_adaptation(spec: str) -> dict[str, dict[str, str]]:
    """The adaptations of a specification, each with the settings named for it.

    Raises:
        UsageError: no such adaptation, or no such setting.

    >>> parse_adaptation("dynamic+cache:lr=0.001,lam=0.2")
    {'dynamic': {'lr': '0.001'}, 'cache': {'lam': '0.2'}}
    """
    kinds, _, values = spec.partition(":")
    unknown = next((kind for kind in kinds.split("+") if kind not in KINDS), None)
    if unknown is not None:
        raise UnknownNameError("adaptation", unknown, KINDS)
    named: dict[str, dict[str, str]] = {kind: {} for kind in kinds.split("+")}
    for assignment in filter(None, values.split(",")):
        name, equals, value = assignment.partition("=")
        known = {field.name: kind for kind in named for field in described(KINDS[kind])}
        if not equals:
            raise UsageError(f"--adapt takes setting=value, not {assignment!r}", "for example dynamic:lr=0.001")
        if name not in known:
            raise UnknownNameError(f"setting of {kinds}", name, known)
        named[known[name]][name] = value
    for kind, settings in named.items():
        KINDS[kind].make(settings, kind)  # checks the values
    return named


def parse_part(spec: str) -> tuple[str, float | None]:
    """A run and its weight, None where none is named.

    Raises:
        SettingError: a weight that is no share.

    >>> parse_part("runs/kn6:0.3"), parse_part("runs/kn6")
    (('runs/kn6', 0.3), ('runs/kn6', None))
    """
    run, colon, weight = spec.rpartition(":")
    if not colon or Path(spec).is_dir():
        return spec, None
    try:
        share = float(weight)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise SettingError(f"the weight of {run}", weight, "a number >= 0 and <= 1", "leave it out to have it fitted")
    return run, share


def _given(shares: Sequence[float | None]) -> list[float | None]:
    """The weights of all parts, the run's own first, as far as they are known."""
    total = sum(share or 0 for share in shares)
    if total > 1:
        raise UsageError(f"the weights of --mix sum to {total:g}, but may to 1 at most", "lower some, or name none")
    return [1 - total if None not in shares else None, *shares]


def _opened(run: str, weight: float | None, lm: TextModel) -> tuple[TextModel, float | None]:
    """Another run, of the same tokens."""
    other = type(lm).load(run)
    if other.tokenizer.reference().to_str() != lm.tokenizer.reference().to_str():
        raise UsageError(
            f"{run} has another vocabulary ({_apart(other, lm)})", "train both on one text, with one tokenizer"
        )
    return other, weight


def _apart(other: TextModel, lm: TextModel) -> str:
    """In what two tokenizers differ."""
    kinds = [f"{b.tokenizer.kind}, {b.tokenizer.vocab_size} tokens" for b in (other, lm)]
    if kinds[0] != kinds[1]:
        return f"{kinds[0]}; this run {kinds[1]}"
    pairs = enumerate(zip(other.tokenizer.tokens, lm.tokenizer.tokens, strict=True))
    apart = next((f"id {id} is {there!r}, in this run {here!r}" for id, (there, here) in pairs if there != here), None)
    return apart or "the same tokens, found otherwise"


# -- what is fitted ---------------------------------------------------------------------------------------------------


class _Fitting:
    """What a run offers to fit on, and the place where the result is kept."""

    def __init__(self, lm: TextModel, reporter: Reporter) -> None:
        self.lm, self.model, self.reporter = lm, lm.model, reporter
        self._heard: tuple[TokenStore, np.ndarray] | None = None

    @cached_property
    def text(self) -> TokenStore | None:
        """The validation split; None where there is none."""
        return self.lm.held_out("valid", self.reporter)

    @property
    def affordable(self) -> int:
        """Tokens of a trial."""
        assert isinstance(self.model, NeuralModel)
        return max(_LEAST_TOKENS, min(_TRIAL_TOKENS, int(_WORK / self.model.parameter_count)))

    @cached_property
    def learned(self) -> TokenStore | None:
        """The beginning of the training split; None where nothing keeps it."""
        return self.lm.held_out("train", self.reporter, chars=_LEARNED_CHARS)

    @staticmethod
    def head(tokens: int, text: TokenStore) -> TokenStore:
        """The beginning of a text, its last document cut; only its ids hold."""
        end = min(tokens + 1, len(text.ids))
        offsets = np.minimum(text.offsets[: np.searchsorted(text.offsets, end - 1) + 1], end)
        end, documents = int(offsets[-1]), len(offsets) - 1
        return dataclasses.replace(
            text, ids=text.ids[:end], offsets=offsets, documents=documents, tokens=end - documents
        )

    def heard(self, parts: _Parts) -> tuple[TokenStore, np.ndarray]:
        """The beginning of the validation split, and what each part gives its tokens: logp_PN."""
        if self._heard is None:
            assert self.text is not None
            text = self.head(2 * self.affordable if parts.adaptation else _MIX_TOKENS, self.text)
            logp = []
            with self.reporter.stage("hearing the parts on the validation split", len(parts.models)) as advance:
                for model in parts.models:
                    logp.append(scoring.token_logp(model, text))
                    advance(len(logp))
            self._heard = text, np.stack(logp)
        return self._heard

    def search(self, title: str, start: Mapping[str, float], cost: Callable[[Mapping[str, float]], float]) -> _Found:
        """Each value doubled, or else halved, as long as that helps: the best found, and what they cost."""
        best, least, done, most = dict(start), cost(start), 1, _TRIALS[title]
        with self.reporter.stage(f"choosing {', '.join(start)} of {title}", most, " trials") as advance:
            for name, factor in ((name, factor) for name in start for factor in (2.0, 0.5)):
                while done < most and best[name] * factor <= _SEARCHED[name]:
                    tried = best | {name: best[name] * factor}
                    nats, done = cost(tried), done + 1
                    advance(done)
                    if not nats < least:
                        break
                    best, least = tried, nats
        values = ", ".join(f"{name} {value:g}" for name, value in best.items())
        self.reporter.say(f"{title}: {values} ({least:.4f} nats/token on the beginning of the validation split)")
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in best.items()}

    def kept(self, what: Sequence[Any], fit: Callable[[], _Found]) -> _Found:
        """What `fit` gives, or gave once."""
        key = hashlib.sha256(json.dumps([_VERSION, identity(self.lm), *what], sort_keys=True).encode()).hexdigest()
        path = cache_dir() / "adaptation" / f"{key[:24]}.safetensors"
        if path.is_file():
            try:
                return load(path.read_bytes())
            except SafetensorError:
                self.reporter.say(f"{path} is damaged; fitting again")
        found = fit()
        with disk.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_file(path, save(found))
        return found


def identity(lm: TextModel) -> str:
    """A hash of a run: what it was made of, its tokenizer, its weights."""
    digest = hashlib.sha256(json.dumps(lm.manifest, sort_keys=True, default=str).encode())
    digest.update(lm.tokenizer.reference().to_str().encode())
    if isinstance(lm.model, NeuralModel):
        for weight in lm.model.state_dict().values():
            digest.update(weight.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _adapted(fitting: _Fitting, named: Mapping[str, Mapping[str, str]]) -> tuple[LanguageModel, dict[str, Any]]:
    """The run's own model, adapted as named."""
    model = fitting.model
    if not named:
        return model, {}
    if not isinstance(model, NeuralModel):
        kind = fitting.lm.config.model.kind
        adapt = "+".join(named)
        raise UsageError(f"--adapt {adapt} needs a neural model, but this run's is {kind}", "mix one in with --mix")
    dynamic = Dynamic(model, Dynamic.Settings(lr=0))
    said: dict[str, Any] = {}
    adapted: Dynamic | NeuralCache = dynamic
    if "dynamic" in named:
        adapted = dynamic = _dynamic(fitting, model, dict(named["dynamic"]))
        said["dynamic"] = dynamic.settings.dump()
    if "cache" in named:
        adapted = _cached(fitting, dynamic, dict(named["cache"]))
        said["cache"] = adapted.settings.dump()
    return adapted, {"adaptation": said}


def _dynamic(fitting: _Fitting, model: NeuralModel, named: Mapping[str, str]) -> Dynamic:
    """Dynamic evaluation with what is named, the rest fitted, or its defaults where there is no validation split.

    The gradients are then measured on training text, as in the paper; where that is not kept either, steps are plain.
    """
    measured = fitting.text or fitting.learned
    plain = named.get("rule", "rms" if measured else "sgd") == "sgd"
    settings = Dynamic.Settings.make({**({"rule": "sgd", **_SGD} if plain else {}), **named}, "dynamic")
    free = {name: getattr(settings, name) for name in ("lr", "decay") if name not in named and fitting.text}
    if settings.lr == 0 or measured is None or (plain and not free):
        return Dynamic(model, settings)

    def fit() -> _Found:
        documents = _documents(fitting.head(fitting.affordable, measured))
        rms_P = None if plain else _measured(fitting, documents, settings.segment)

        def cost(values: Mapping[str, float]) -> float:
            return _nats(Dynamic(model, _with(settings, values), rms_P).logp_stream(documents))

        found = fitting.search("dynamic", free, cost) if free else {}
        return found if rms_P is None else {**found, "rms_P": rms_P}

    found = fitting.kept([settings.dump(), sorted(free)], fit)
    return Dynamic(model, _with(settings, {name: found[name].item() for name in free}), found.get("rms_P"))


def _measured(fitting: _Fitting, documents: Sequence[np.ndarray], segment: int) -> Tensor:
    assert isinstance(fitting.model, NeuralModel)
    with fitting.reporter.stage("measuring gradients", sum(map(len, documents)), " tokens") as advance:
        return gradient_rms(fitting.model, documents, segment, advance)


def _documents(text: TokenStore) -> list[np.ndarray]:
    return [text.document(number) for number in range(len(text))]


def _cached(fitting: _Fitting, dynamic: Dynamic, named: Mapping[str, str]) -> NeuralCache:
    """A cache with what is named, the rest fitted, or the defaults without a validation split."""
    settings = NeuralCache.Settings.make(named, "cache")
    free = {name: getattr(settings, name) for name in ("theta", "lam") if name not in named}
    if not free or fitting.text is None:
        return NeuralCache(dynamic, settings)

    def fit() -> _Found:
        assert fitting.text is not None
        observed = list(dynamic.observe(_documents(fitting.head(fitting.affordable, fitting.text))))

        def cost(values: Mapping[str, float]) -> float:
            return _nats(NeuralCache(dynamic, _with(settings, values)).rescored(observed))

        return fitting.search("cache", free, cost)

    found = fitting.kept([settings.dump(), sorted(free), dynamic.settings.dump()], fit)
    return NeuralCache(dynamic, _with(settings, {name: found[name].item() for name in free}))


def _nats(scores: Iterable[np.ndarray]) -> float:
    """Their mean; infinite where the steps were so large that the weights are no numbers any more."""
    nats = -float(np.concatenate(list(scores)).mean(dtype=np.float64))
    return nats if math.isfinite(nats) else math.inf


def _with(settings: Any, values: Mapping[str, float]) -> Any:
    return dataclasses.replace(settings, **values)


@dataclass(frozen=True)
class _Parts:
    """What is mixed: the run's own model, adapted or not, then those of other runs."""

    models: tuple[LanguageModel, ...]
    others: tuple[TextModel, ...]
    adaptation: Mapping[str, Any]

    def key(self) -> list[Any]:
        """What tells them from others of the same run."""
        return [dict(self.adaptation), [identity(other) for other in self.others]]


def _mixed(
    fitting: _Fitting, parts: _Parts, given: Sequence[float | None], said: dict[str, Any]
) -> LinearMixture | Mixture | Gated:
    """The parts, weighed as given; or by expectation maximisation; or, where nothing is given, by a gate."""
    names = ["this run", *(str(other.folder) for other in parts.others)]
    known = [weight for weight in given if weight is not None]
    if len(known) < len(given) and fitting.text is None:
        raise UsageError("this run has no validation split to fit weights on", "name each: --mix RUN:0.3")
    for other in parts.others:
        doubt = _may_have_seen(fitting.lm, other)
        if doubt and len(known) < len(given):
            raise UsageError(doubt, "train both with one --split, or name a weight")
        if doubt:
            fitting.reporter.say(f"mind: {doubt}")
            said.setdefault("doubts", []).append(doubt)
    gated = not known and fitting.text is not None and fitting.text.tokens >= _LEAST_GATED

    def fit() -> _Found:
        _, logp_PN = fitting.heard(parts)
        found = {"weights_P": fit_weights(logp_PN, given=given)} | (vars(fit_gate(logp_PN)) if gated else {})
        return {name: torch.from_numpy(value) for name, value in found.items()}

    found = fitting.kept([*parts.key(), list(given), gated], fit) if len(known) < len(given) else {}
    weights = found["weights_P"].tolist() if found else known
    said["mixture"] = [{"part": name, "weight": weight} for name, weight in zip(names, weights, strict=True)]
    if gated:
        said["gate"] = "these are the best constant weights; a gate moves them as each part foretells the last tokens"
        return Gated(parts.models, Gate(found["inner"].numpy(), found["outer"].numpy()))
    return mix(Mixture.Settings("linear", tuple(weights)), parts.models)


def _recounted(
    fitting: _Fitting, parts: _Parts, model: LanguageModel, named: Mapping[str, str], said: dict[str, Any]
) -> Recount:
    """The whole with counts of the text around it: with what is named, the rest fitted where there is held-out text."""
    settings = Recount.Settings.make(named, "counts")
    free = [name for name in ("discount", "strength", "weight") if name not in named]
    if not {"shortest", "longest"} & set(named):
        free.append("contexts")

    def fit() -> _Found:
        text, logp_PN = fitting.heard(parts)
        documents = _documents(text)
        logp_N = np.concatenate([*model.blend(documents, iter([logp_PN]))]) if isinstance(model, Blend) else logp_PN[0]
        with fitting.reporter.stage("choosing how counts are weighed"):
            best = fit_counts(documents, logp_N, settings, free)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in best.dump().items()}

    if free and fitting.text is not None:
        found = fitting.kept([*parts.key(), said.get("mixture"), settings.dump(), free], fit)
        settings = Recount.Settings(**{name: type(getattr(settings, name))(value) for name, value in found.items()})
    said["adaptation"] = {**said.get("adaptation", {}), "counts": settings.dump()}
    return Recount(model, settings)


def _may_have_seen(lm: TextModel, other: TextModel) -> str:
    """Why another run may have been trained on what this one held out; empty if it was not."""
    here, there = lm.manifest["data"], other.manifest["data"]
    if there.get("sha256") != here["sha256"] or there.get("split_rule") == here["split_rule"]:
        return ""
    rule = there.get("split_rule")
    return f"{other.folder} splits the same text otherwise ({rule}), so it may know what this run held out"
