"""Training a network on labelled sequences: batches of like length, AdamW, thawing and rates by depth.

Initial weights, batches and dropout hang on the seed alone, so the same steps give the same weights; a budget of
minutes takes as many steps as the machine makes.

Shapes: N texts, B of a batch, T positions, C classes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.classify.many_to_one import ManyToOne, TextNetwork
from lmlab.classify.settings import ClassifierSettings
from lmlab.errors import ArtifactError, LmlabError, UsageError
from lmlab.integrity import plain
from lmlab.models.neural.base import check_finite_weights
from lmlab.models.neural.dropout import drawn_from
from lmlab.progress import Reporter
from lmlab.run_config import RunConfig
from lmlab.tokens.id_store import TokenStore
from lmlab.train_settings import TrainSettings
from lmlab.training.machine import Interrupt, choose_device, choose_precision, torch_borrowed
from lmlab.training.optim import AdamW, learning_rate, make_optimizer
from lmlab.training.stepper import check_finite
from lmlab.vocabulary import PAD

_POOL_BATCHES = 50  # rows are sorted by length within a pool of so many batches
_EVALUATIONS = 10
_WEIGHTS = "model.safetensors"
_ROWS = 64  # scored side by side
_USED = {
    *("minutes", "steps", "epochs", "batch_size", "optimizer", "lr", "schedule", "warmup", "floor", "beta2"),
    *("weight_decay", "clip_norm", "patience", "threads", "device", "precision"),
}


@dataclass(frozen=True)
class Rows:
    """Encoded texts, of each its first `longest` ids, and their classes where they are known."""

    tokens: TokenStore
    longest: int
    classes_N: np.ndarray | None = None

    @property
    def lengths_N(self) -> np.ndarray:
        """Ids of each text that are read."""
        lengths_N: np.ndarray = np.minimum(self.tokens.lengths, self.longest)
        return lengths_N

    def batch(self, which_B: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """ids_BT with `[PAD]` after each text, and lengths_B."""
        lengths_B = self.lengths_N[which_B]
        ids_BT = np.full((len(which_B), int(lengths_B.max())), PAD, np.int64)
        for row, (text, length) in enumerate(zip(which_B.tolist(), lengths_B.tolist(), strict=True)):
            ids_BT[row, :length] = self.tokens.document(text)[:length]
        return torch.from_numpy(ids_BT).to(device), torch.from_numpy(lengths_B).to(device)


def by_length(lengths_N: np.ndarray, rows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """An epoch in random batches of texts of like length.

    >>> [batch.tolist() for batch in by_length(np.array([5, 1, 5, 1]), 2, np.random.default_rng(0))]
    [[2, 0], [1, 3]]
    """
    order_N, batches = rng.permutation(len(lengths_N)), []
    for at in range(0, len(order_N), rows * _POOL_BATCHES):
        pool = order_N[at : at + rows * _POOL_BATCHES]
        pool = pool[np.argsort(lengths_N[pool], kind="stable")]
        batches += [pool[start : start + rows] for start in range(0, len(pool), rows)]
    return [batches[nth] for nth in rng.permutation(len(batches))]


class Network:
    """A network that classifies texts, of each its first `longest` ids."""

    def __init__(self, network: TextNetwork, longest: int) -> None:
        self.network, self.longest = network, longest

    @torch.inference_mode()
    def logits(self, tokens: TokenStore, reporter: Reporter) -> np.ndarray:
        """logits_NC of texts, read side by side with others of like length.

        Raises:
            LmlabError: the network gives NaN or infinite numbers.
        """
        self.network.eval()
        rows, device = Rows(tokens, self.longest), self.network.encoder.device
        logits_NC = np.empty((len(tokens), self.network.head.out_features))
        order_N = np.argsort(rows.lengths_N, kind="stable")
        with reporter.stage("classifying", len(order_N), " texts") as advance:
            for at in range(0, len(order_N), _ROWS):
                which_B = order_N[at : at + _ROWS]
                logits_NC[which_B] = self.network(*rows.batch(which_B, device)).cpu().numpy()
                advance(at + len(which_B))
        if not np.isfinite(logits_NC).all():
            raise LmlabError("the network gives NaN or infinite numbers", "its training diverged; lower train.lr")
        return logits_NC

    def save(self, folder: Path) -> None:
        """Write the weights, as safetensors."""
        weights = self.network.state_dict().items()
        save_file({name: weight.contiguous() for name, weight in weights}, folder / _WEIGHTS)

    def read(self, folder: Path) -> None:
        """Take the weights that `save` wrote.

        Raises:
            ArtifactError: they are missing, damaged, or of another shape.
        """
        try:
            self.network.load_state_dict(load_file(plain(folder / _WEIGHTS)))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ArtifactError(f"{folder / _WEIGHTS} cannot be read ({reason})", "train it again") from error

    def check(self) -> None:
        """Look for weights that are NaN or infinite.

        Raises:
            ArtifactError: there are some.
        """
        check_finite_weights(self.network, "classifier")


def new_network(config: RunConfig, vocab_size: int, classes: int, own: ClassifierSettings, encoder: Any) -> TextNetwork:
    """A network over an encoder, or over a fresh one (None) with the weights that the seed gives."""
    from lmlab import registry

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if encoder is None:
            model_class = registry.resolve("model", config.model.kind)
            model_class.check_room(config.model.settings, vocab_size)
            encoder = model_class(config.model.settings, vocab_size)
        dropout = getattr(config.model.settings, "dropout", 0.0)
        return TextNetwork(copy.deepcopy(encoder).train(), classes, own.pool, dropout)


def fit(
    network: TextNetwork, train: Rows, valid: Rows, config: RunConfig, own: ClassifierSettings, reporter: Reporter
) -> dict[str, Any]:
    """Train in place; the weights of the best evaluation on the validation texts stay, if there are any.

    Returns:
        What the manifest says: steps, seconds, status, the accuracies on the way.

    Raises:
        UsageError: a setting of training is named that a classifier has no use for.
        NonFiniteError: the loss became NaN or infinite.
    """
    settings = config.train
    if unused := sorted(config.names_in("train") - _USED):
        raise UsageError(f"train.{unused[0]} does nothing for a classifier", f"there are {', '.join(sorted(_USED))}")
    with torch_borrowed(settings.threads or 1), Interrupt() as interrupt:
        network.to(choose_device(settings.device, 0))
        try:
            return _Run(network, train, valid, config, own, reporter).go(interrupt)
        finally:
            network.cpu().eval()


class _Run:
    def __init__(
        self, network: TextNetwork, train: Rows, valid: Rows, config: RunConfig, own: ClassifierSettings, reporter: Any
    ) -> None:
        self.network, self.train, self.valid, self.seed = network, train, valid, config.seed
        self.settings, self.reporter, self.began = config.train, reporter, time.perf_counter()
        self.precision = choose_precision(config.train.precision, network.encoder.device)
        groups = network.depth_groups() if own.start else [[*network.parameters()]]
        self.groups = [(own.frozen * n / max(1, len(groups) - 1), own.decay**-n, g) for n, g in enumerate(groups)]
        settings = self.settings
        self.optimizers = [AdamW(group, settings.beta2, settings.weight_decay) for _, _, group in self.groups]
        epoch = -(-len(train.tokens) // settings.batch_size)
        self.total = settings.steps if settings.epochs is None else max(1, round(settings.epochs * epoch))
        self.step, self.worse, self.best, self.kept = 0, 0, (-1.0, 0.0), {}  # type: ignore[var-annotated]
        self.history: list[dict[str, float]] = []

    def share(self) -> float:
        """Of the budget that is spent."""
        if self.total is None:
            return (time.perf_counter() - self.began) / (60 * (self.settings.minutes or 1))
        return self.step / self.total if self.total else 1.0

    def go(self, interrupt: Interrupt) -> dict[str, Any]:
        patience, share, status, nats, seen = self.settings.patience, self.share(), "done", 0.0, 0
        batches = self._batches()
        with self.reporter.stage("training", 1000, " ‰") as advance:
            while share < 1:
                if interrupt.signal or (patience is not None and self.worse >= patience):
                    status = "interrupted" if interrupt.signal else "early"
                    break
                which_B = next(batches)
                nats, seen = nats + self._learn(which_B, share), seen + len(which_B)
                before, share = share, self.share()
                advance(min(1000, int(1000 * share)))
                if share >= 1 or int(_EVALUATIONS * share) > int(_EVALUATIONS * before):
                    self._evaluate(nats / seen)
                    nats, seen = 0.0, 0
        if self.kept:
            self.network.load_state_dict(self.kept)
        seconds = time.perf_counter() - self.began
        return {
            "status": status,
            "signal": interrupt.signal,
            "steps": self.step,
            "precision": self.precision,
            "train_seconds": seconds,
            "history": self.history,
        }

    def _batches(self) -> Iterator[np.ndarray]:
        epoch = 0
        while True:
            yield from by_length(
                self.train.lengths_N, self.settings.batch_size, np.random.default_rng([self.seed, epoch])
            )
            epoch += 1

    def _learn(self, which_B: np.ndarray, share: float) -> float:
        """One step; the summed nats of its texts."""
        assert self.train.classes_N is not None
        device = self.network.encoder.device
        self.network.train()
        for thaw, _, group in self.groups:
            for parameter in group:
                parameter.requires_grad_(share >= thaw)
        half = torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with drawn_from(self.seed, self.step), half:
            logits_BC = self.network(*self.train.batch(which_B, device))
            targets_B = torch.from_numpy(self.train.classes_N[which_B]).to(device)
            loss = F.cross_entropy(logits_BC.float(), targets_B)
            loss.backward()
        parameters = [*self.network.parameters()]
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        check_finite("loss", loss.item(), self.step, saved=False)
        rate = learning_rate(self.settings, min(1.0, share + (1 / self.total if self.total else 0)))
        for (_, factor, _), optimizer in zip(self.groups, self.optimizers, strict=True):
            optimizer.step(rate * factor)
        self.network.zero_grad()
        self.step += 1
        return loss.item() * len(which_B)

    def _evaluate(self, train_nats: float) -> None:
        if not len(self.valid.tokens):
            return
        found_N = self.valid.classes_N
        logits_NC = Network(self.network, self.valid.longest).logits(self.valid.tokens, Reporter())
        nats = F.cross_entropy(torch.from_numpy(logits_NC), torch.from_numpy(found_N)).item()
        accuracy = float((logits_NC.argmax(1) == found_N).mean())
        self.history.append({"step": self.step, "train_nats": train_nats, "valid_nats": nats, "accuracy": accuracy})
        self.reporter.say(
            f"  step {self.step:,}: {train_nats:.3f} nats/text, valid {nats:.3f}, accuracy {accuracy:.4f}"
        )
        self.worse += 1
        if (accuracy, -nats) > self.best:
            self.best, self.worse = (accuracy, -nats), 0
            self.kept = {name: weight.clone() for name, weight in self.network.state_dict().items()}


def fit_numbers(
    model: ManyToOne, x_NTE: Tensor, y_N: Tensor, steps: int, lr: float = 1e-3, seed: int = 0
) -> list[float]:
    """Train on sequences of numbers, 32 drawn a step: classes by cross-entropy, real targets by squared error.

    Returns:
        The loss at each step.

    Raises:
        DataError: the input is NaN, infinite or of another shape.
        NonFiniteError: the loss became so.
    """
    settings, losses, rng = TrainSettings(lr=lr), [], np.random.default_rng(seed)
    optimizer = make_optimizer(model, settings)
    model.train()
    for step in range(steps):
        which_B = torch.from_numpy(rng.integers(len(x_NTE), size=32))
        with drawn_from(seed, step):
            out_BC, wanted_B = model(x_NTE[which_B]), y_N[which_B]
            real = wanted_B.is_floating_point()
            loss = F.mse_loss(out_BC[:, 0], wanted_B) if real else F.cross_entropy(out_BC, wanted_B)
            loss.backward()
        check_finite("loss", loss.item(), step, saved=False)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(learning_rate(settings, (step + 1) / steps))
        model.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses
