"""What one client, and all of them, may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from lmlab.config import Settings, setting


@dataclass(frozen=True)
class Bounds(Settings):
    """What one client, and all of them, may ask for."""

    loaded: int = setting(4, "models held in memory; the one not used for longest makes room", ge=1)
    waiting: int = setting(256, "requests at work or waiting for one model; more are answered 429", ge=1)
    prompt: int = setting(32_768, "tokens of a prompt or a scored text", ge=1)
    tokens: int = setting(4_096, "tokens of one new text", ge=1)
    rows: int = setting(128, "texts that one request grows at once: prompts, n, best_of, width", ge=1)
    together: int = setting(512, "texts that one model grows at once; further requests wait", ge=1)
    seconds: float = setting(60.0, "of a request, after which its texts are cut; twice as many end it", gt=0)
    body: int = setting(8, "megabytes of a request", ge=1, le=1024)
