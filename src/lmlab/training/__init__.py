"""Training by gradient: one loop, its settings, events and checkpoints."""

from lmlab.train_settings import TrainSettings

__all__ = ["TrainSettings"]
