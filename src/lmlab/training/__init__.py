"""Training by gradient: one loop, its settings, events and checkpoints."""

from lmlab.training.settings import TrainSettings

__all__ = ["TrainSettings"]
