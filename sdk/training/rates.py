"""How the learning rate falls while a device learns."""

from __future__ import annotations

import math


def fallen(rate: float, done: float) -> float:
    """What is left of a learning rate when a share `done` of the run is over: half a cosine, from all of it to nothing (arXiv 1608.03983)."""
    return rate * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
