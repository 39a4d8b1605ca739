"""One step of training: read some batches, sum their gradients weighted by tokens, clip, move the weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from lmlab.errors import ArtifactError, NonFiniteError
from lmlab.models.neural.base import NeuralModel, TensorState
from lmlab.tokens.batches import Batch, Batches
from lmlab.train_settings import TrainSettings
from lmlab.training.checkpoint import Checkpoint, Progress
from lmlab.training.optim import Optimizer, make_optimizer
from lmlab.training.parallel import Gradients, rows_of
from lmlab.training.ranks import Ranks


class Stepper:
    """Moves the weights of a model, one step a call, and counts on in a `Progress`.

    A step depends on weights, optimiser, carried state, place in the data and the key of dropout (seed, step) alone:
    `tensors` and `progress` hold them all. Leaving it as a context ends the threads of row blocks.

    Args:
        model: on the device where it is trained.
        batches: the training split; this process reads its rows of each.
        settings: of batches, optimiser and clipping.
        progress: where to go on; its precision, threads and row blocks are used as they are.
        seed: of dropout.
        ranks: the processes that train together.
        saved: whether the run has checkpoints, which an error then says.
        optimizer: makes one over the model's parameters.
    """

    def __init__(
        self,
        model: NeuralModel,
        batches: Batches,
        settings: TrainSettings,
        progress: Progress,
        seed: int,
        ranks: Ranks,
        *,
        saved: bool,
        optimizer: Callable[[nn.Module, TrainSettings], Optimizer] = make_optimizer,
    ) -> None:
        self.progress, self.saved = progress, saved
        self._model, self._settings, self._seed, self._ranks = model, settings, seed, ranks
        self._batches = batches.share(ranks.rank, ranks.count)
        self._epoch = self._batches.epoch(progress.epoch)
        self._state: TensorState | None = None
        self._optimizer = optimizer(model, settings)
        torch.set_num_threads(progress.threads)
        self._gradients = Gradients(
            model,
            functools.partial(
                torch.autocast,
                model.device.type,
                torch.bfloat16,
                enabled=progress.precision == "bf16",
                cache_enabled=progress.row_blocks == 1,
            ),
            progress.row_blocks,
            ranks,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._gradients.close()

    @property
    def epochs(self) -> float:
        """Passes over the training split so far."""
        return self.progress.epoch + self.progress.index / max(1, len(self._epoch))

    def step(self, lr: float) -> tuple[float, int]:
        """Move the weights once; the step's summed nats and its tokens, over all processes.

        Raises:
            NonFiniteError: the loss or its gradient is NaN or infinite; the weights have not moved.
        """
        batches = [self._next_batch() for _ in range(self._settings.accumulate)]
        tokens = int(self._ranks.total(sum(batch.tokens for batch in batches))[0])
        nats = torch.zeros((), device=self._model.device)
        for nth, batch in enumerate(batches, 1):
            batch = batch.to(self._model.device)
            key = (self._seed, self.progress.step, nth)
            last = nth == len(batches)
            of_batch, after = self._gradients.add(
                batch, self._state if batch.carry else None, 1 / max(1, tokens), key, last=last
            )
            self._state = after if self._batches.carries and self._settings.carry else None
            nats += of_batch
        step_nats = self._clip(nats)
        self._optimizer.step(lr)
        self._model.zero_grad()
        self.progress.step += 1
        self.progress.tokens += tokens
        return step_nats, tokens

    def _next_batch(self) -> Batch:
        progress = self.progress
        batch = self._epoch[progress.index]
        progress.index += 1
        if progress.index == len(self._epoch):
            progress.epoch, progress.index = progress.epoch + 1, 0
            self._epoch = self._batches.epoch(progress.epoch)
        return batch

    def _clip(self, nats: Tensor) -> float:
        """Clip the gradient as the settings say; the step's nats over all processes. A GPU is waited for once."""
        settings, parameters = self._settings, list(self._model.parameters())
        if settings.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, settings.clip_value)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients).to(nats.device)
        own_nats, length = torch.stack([nats, norm]).tolist()
        (step_nats,) = self._ranks.total(own_nats)
        check_finite("loss", step_nats, self.progress.step, saved=self.saved)
        check_finite("norm of the gradient", length, self.progress.step, saved=self.saved)
        if settings.clip_norm is not None and length > settings.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norm)
        return step_nats

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on, named as in a checkpoint. Every rank must call this."""
        carried = [self._ranks.gather(tensor) for tensor in (self._state.tensors if self._state else ())]
        tensors = {f"model/{name}": tensor for name, tensor in self._model.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self._optimizer.memory.items()}
        return tensors | {f"carried/{nth}": tensor for nth, tensor in enumerate(carried)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load the tensors of a checkpoint, written by however many processes.

        Raises:
            ArtifactError: it is of another model or another text.
        """
        carried = checkpoint.group("carried")
        try:
            self._model.load_state_dict(checkpoint.group("model"))
            memory = checkpoint.group("optimizer")
            for name, tensor in self._optimizer.memory.items():
                tensor.copy_(memory[name])
            self._epoch[self.progress.index]
            if carried:
                whole = TensorState(tuple(carried[str(nth)].to(self._model.device) for nth in range(len(carried))))
                self._state = rows_of(whole, self._ranks.rank, self._ranks.count)
        except (KeyError, IndexError, RuntimeError, TypeError) as error:
            problem = f"the checkpoint of step {self.progress.step} does not fit this run ({error})"
            raise ArtifactError(problem, "train again without --resume") from error


def check_finite(what: str, value: float, step: int, *, saved: bool) -> None:
    """Raise where a number is NaN or infinite.

    Raises:
        NonFiniteError: it is.
    """
    if not math.isfinite(value):
        kept = "the weights of the last checkpoint are kept" if saved else "the weights are lost"
        raise NonFiniteError(
            f"the {what} is {value} after step {step}, but must be finite; {kept}",
            "lower train.lr or set train.clip_norm",
        )
