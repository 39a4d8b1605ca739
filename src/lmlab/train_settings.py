"""The settings of training: group `train` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from lmlab import config
from lmlab.config import setting

MOST_STEPS = 10**12
"""Of a run: beyond it shares of the run are not told apart."""


@dataclass(frozen=True)
class TrainSettings(config.Settings):
    """Budget, batches, optimiser, evaluation. A model brings its own defaults for some (`training_defaults`)."""

    minutes: float | None = setting(None, "budget in minutes of training; 3 when no budget is named", gt=0, le=1e6)
    steps: int | None = setting(
        None, "budget in optimiser steps, instead of minutes; 0 scores and samples a fresh model", ge=0, le=MOST_STEPS
    )
    epochs: float | None = setting(None, "budget in passes over the training split, instead of minutes", gt=0, le=1e6)
    plan: str | None = setting(None, "steps as a timed run planned and recorded them, to repeat it bit for bit")
    batching: str = setting(
        "auto",
        "columns carry the state through long texts, lines pad short documents, windows cut anywhere; auto looks at "
        "the length of the documents",
        choices=("auto", "columns", "lines", "windows"),
    )
    batch_size: int = setting(16, "rows a batch", ge=1, le=100_000)
    batch_tokens: int | None = setting(
        None, "tokens a batch, padding included, instead of rows (lines only)", ge=1, le=10**8
    )
    length: int = setting(64, "tokens a row at most; back-propagation is truncated here", ge=1, le=10**6)
    bucket: bool = setting(True, "batch documents of like length together (lines only)")
    carry: bool = setting(True, "carry the state from batch to batch (columns only)")
    restart: float = setting(0.03, "chance that a row begins anew at a batch (columns only)", ge=0, le=1)
    accumulate: int = setting(1, "batches whose gradients make one step", ge=1, le=1000)
    optimizer: str = setting("adamw", "AdamW (Loshchilov and Hutter 2019) or plain SGD", choices=("adamw", "sgd"))
    lr: float = setting(3e-3, "peak learning rate", gt=0)
    schedule: str = setting("cosine", "how the rate falls after the warm-up", choices=("cosine", "constant"))
    warmup: float = setting(0.05, "share of the budget in which the rate rises to its peak", ge=0, lt=1)
    floor: float = setting(0.02, "share of the peak rate at the end of the cosine", ge=0, le=1)
    dropout_schedule: str = setting(
        "constant",
        "whether dropout stays, or falls in a line from twice its share to none at the end, which suits a text that is "
        "read several times (Rennie et al. 2014)",
        choices=("constant", "falling"),
    )
    beta2: float = setting(0.99, "decay of AdamW's second moment", gt=0, lt=1)
    weight_decay: float = setting(0.01, "AdamW's weight decay, on matrices alone", ge=0, le=1e3)
    clip_norm: float | None = setting(1.0, "largest global norm of the gradient; none is off", gt=0)
    clip_value: float | None = setting(None, "largest absolute value of any gradient; none is off", gt=0)
    evaluations: int = setting(20, "how often the validation split is scored, evenly through the run", ge=0, le=10**6)
    evaluate_every: int | None = setting(
        None,
        "steps from one evaluation to the next, in place of `evaluations`; the first at step 0",
        ge=1,
        le=MOST_STEPS,
    )
    validation_tokens: int = setting(
        100_000, "tokens of the validation split scored each time, from its start", ge=1, le=10**12
    )
    patience: int | None = setting(None, "evaluations without a better one before training stops early", ge=1, le=10**6)
    calibration_temperature: float | None = setting(
        None,
        "what a finished model's logits are divided by (Guo et al. 2017); none fits it on the validation split",
        ge=1e-3,
        le=1e3,
    )
    samples: bool = setting(True, "show samples at some evaluations; with `evaluate_every` at each")
    sample_prompt: str = setting("", "text that the samples go on from")
    sample_temperature: float = setting(0.8, "temperature of the samples; 0 is greedy", ge=0, le=1e3)
    sample_count: int = setting(1, "samples each time", ge=1, le=100)
    baseline: bool = setting(True, "show what an n-gram of the same tokens has, and, from 100 s on, context mixing")
    precision: str = setting(
        "auto", "bf16 where a probe shows the machine multiplies it faster, else fp32", choices=("auto", "fp32", "bf16")
    )
    threads: int | None = setting(
        None,
        "processor threads; none measures one against one a core, and takes one in runs of under 100 steps",
        ge=1,
        le=1000,
    )
    row_blocks: int | None = setting(
        None,
        "row blocks a batch, each in a thread of its own; none is 1, or one a core where a timed run measures that "
        "to be faster; processes of several have one block each",
        ge=1,
        le=1000,
    )
    device: str = setting("auto", "where to compute; auto is a GPU if there is one", choices=("auto", "cpu", "cuda"))
    tensorboard: bool = setting(False, "also write TensorBoard events (extra `tensorboard`)")
