"""A text classifier of one network: any architecture of lmlab reads the text, one linear layer answers.

It is trained by the loop that trains language models. Initial weights, batches and dropout hang on the seed alone, so
the same steps give the same weights; a budget of minutes takes as many steps as the machine makes.

Shapes: N texts, B of a batch, T positions, H hidden, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lmlab import registry
from lmlab.classify.batches import Sequences
from lmlab.classify.data import Task
from lmlab.classify.many_to_one import Learner, pooled
from lmlab.classify.settings import ClassifierSettings
from lmlab.errors import ArtifactError, LmlabError, UsageError
from lmlab.integrity import plain
from lmlab.models.neural.base import NeuralModel, check_finite_weights
from lmlab.models.neural.dropout import Dropout
from lmlab.progress import Reporter
from lmlab.run_config import RunConfig
from lmlab.tokens.id_store import TokenStore
from lmlab.training.events import Began, Evaluated, Event, Stepped
from lmlab.training.fit import Fit
from lmlab.training.optim import make_optimizer
from lmlab.vocabulary import BOS, PAD

_WEIGHTS = "model.safetensors"
_OF_LANGUAGE_MODELS = {
    *("batching", "batch_tokens", "length", "bucket", "carry", "restart", "calibration_temperature"),
    *("samples", "sample_prompt", "sample_temperature", "sample_count", "baseline", "tensorboard"),
}


class TextNetwork(Learner):
    """A trained architecture read as an encoder, its output layer for tokens replaced by one for classes.

    Args:
        encoder: of a language model, or fresh; it loses its output layer.
        classes: C.
        pool: one of `POOLS`.
        dropout: share of the pooled vector that is dropped in training.
        longest: ids of a text that are read.
    """

    def __init__(self, encoder: NeuralModel, classes: int, pool: str, dropout: float, longest: int) -> None:
        super().__init__()
        encoder.output = nn.Identity()  # type: ignore[assignment]  # no token is predicted
        self.encoder, self.pool, self.dropout, self.longest = encoder, pool, Dropout(dropout), longest
        with torch.no_grad():
            width = encoder.read(torch.full((1, 1), BOS, device=encoder.device))[0].shape[-1]
        self.head = nn.Linear(width * (3 if pool == "concat" else 1), classes)

    @classmethod
    def new(
        cls, config: RunConfig, own: ClassifierSettings, vocab_size: int, classes: int, encoder: NeuralModel | None
    ) -> Self:
        """A network over a copy of an encoder, or over a fresh one (None) with the weights that the seed gives."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            if encoder is None:
                kind = registry.resolve("model", config.model.kind)
                kind.check_room(config.model.settings, vocab_size)
                encoder = kind(config.model.settings, vocab_size)
            dropout = getattr(config.model.settings, "dropout", 0.0)
            return cls(copy.deepcopy(encoder).train(), classes, own.pool, dropout, own.max_tokens)

    @classmethod
    def fit(cls, task: Task, encoder: NeuralModel | None) -> tuple[Self, dict[str, Any]]:
        """Train over an encoder, or a fresh one (None).

        Returns:
            The network with the weights that were best on the validation texts, or the last where there are none; and
            what the manifest says of its training.

        Raises:
            UsageError: a setting of training is named that a classifier has no use for.
            NonFiniteError: the loss became NaN or infinite.
        """
        config, own, settings = task.config, task.own, task.config.train
        if unused := sorted(config.names_in("train") & _OF_LANGUAGE_MODELS):
            raise UsageError(f"train.{unused[0]} does nothing for a classifier", "leave it out")
        network = cls.new(config, own, task.tokenizer.vocab_size, len(task.classes), encoder)
        train, valid = (
            Sequences.of(task.encoded(part.texts), own.max_tokens, task.numbers(part), settings.batch_size, config.seed)
            for part in (task.train, task.valid)
        )
        groups, history = network.depth_groups() if own.start else [], list[dict[str, float]]()
        with task.reporter.stage("training", 1000, " ‰") as advance:

            def hear(event: Event) -> None:
                if isinstance(event, Began | Stepped):
                    done = event.step / max(1, event.total_steps)
                    advance(int(1000 * done))
                    thaw(groups, own.frozen, done)
                elif isinstance(event, Evaluated):
                    history.append({"step": event.step, "valid_nats": event.valid_nats})
                    best = " (best)" * event.best
                    task.reporter.say(f"  step {event.step:,}: {event.valid_nats:.4f} nats/text{best}")

            outcome = Fit(
                network,  # type: ignore[arg-type]  # has the loss and the device that the loop asks for
                train, replace(settings, row_blocks=1) if groups else settings, config.seed,
                validation=valid.in_order()[1] if task.valid else None, listeners=[hear], budget=task.budget,
                afterwards=task.afterwards, optimizer=partial(ByDepth, groups, own.decay) if groups else make_optimizer,
            ).go()  # fmt: skip
        progress = outcome.progress
        results = {"status": outcome.reason, "signal": outcome.signal, "steps": progress.step, "history": history}
        return network, {**results, "precision": progress.precision, "train_seconds": progress.seconds}

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BC of texts with `[PAD]` after them."""
        hidden_BTH, _ = self.encoder.read(ids_BT)
        lengths_B = (ids_BT != PAD).sum(1).clamp_(min=1)
        logits_BC: Tensor = self.head(self.dropout(pooled(hidden_BTH.float(), lengths_B, self.pool)))
        return logits_BC

    @torch.inference_mode()
    def logits(self, tokens: TokenStore, reporter: Reporter) -> np.ndarray:
        """logits_NC of texts, read side by side with others of like length; LmlabError where one is NaN or infinite."""
        logits_NC, done = np.empty((len(tokens), self.head.out_features)), 0
        with reporter.stage("classifying", len(tokens), " texts") as advance:
            for which_B, batch in zip(*Sequences.of(tokens, self.longest).in_order(), strict=True):
                logits_NC[which_B] = self(batch.ids_BT).numpy()
                advance(done := done + len(which_B))
        if not np.isfinite(logits_NC).all():
            raise LmlabError("the network gives NaN or infinite numbers", "its training diverged; lower train.lr")
        return logits_NC

    def save(self, folder: Path) -> None:
        """Write the weights, as safetensors."""
        save_file({name: weight.contiguous() for name, weight in self.state_dict().items()}, folder / _WEIGHTS)

    def read(self, folder: Path) -> Self:
        """Take the weights that `save` wrote; ArtifactError where they are missing, damaged, or of another shape."""
        try:
            self.load_state_dict(load_file(plain(folder / _WEIGHTS)))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ArtifactError(f"{folder / _WEIGHTS} cannot be read ({reason})", "train it again") from error
        return self.eval()

    def check(self) -> None:
        """ArtifactError where a weight is NaN or infinite."""
        check_finite_weights(self, "classifier")

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """The parameters from the output down: the head, each layer from the last to the first, the embedding."""
        by_depth: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.encoder.named_parameters():
            parts = (
                part.removeprefix("l") for part in name.replace("_", ".").split(".")
            )  # weight_ih_l0, layers.0.weight
            layer = next((int(part) for part in parts if part.isdigit()), 10**6)
            by_depth.setdefault(-1 if name.startswith("embedding") else layer, []).append(parameter)
        return [[*self.head.parameters()], *(by_depth[depth] for depth in sorted(by_depth, reverse=True))]


class ByDepth:
    """An optimiser for each group of parameters, from the output down; each at the rate of the one above over `decay`.

    Source: Howard and Ruder 2018, section 3.2 (discriminative fine-tuning).
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]], decay: float, model: nn.Module, settings: Any) -> None:
        self._optimizers = [make_optimizer(nn.ParameterList(group), settings) for group in groups]
        self._decay = decay
        self.memory = {
            f"{nth}/{name}": tensor for nth, each in enumerate(self._optimizers) for name, tensor in each.memory.items()
        }

    def step(self, lr: float) -> None:
        """Move the parameters that have a gradient."""
        for nth, optimizer in enumerate(self._optimizers):
            optimizer.step(lr / self._decay**nth)


def thaw(groups: Sequence[Sequence[nn.Parameter]], frozen: float, done: float) -> None:
    """Let one group after the other learn, over a share `frozen` of the run (Howard and Ruder 2018, section 3.3)."""
    for nth, group in enumerate(groups):
        for parameter in group:
            parameter.requires_grad_(done >= frozen * nth / max(1, len(groups) - 1))
