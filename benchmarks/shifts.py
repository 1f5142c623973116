"""Pictures as another camera would take them: noise, blur, low contrast, other colours, each in five strengths.

`shift(x, kind, severity, seed)` is a pure function of uint8 pictures [n, H, W, 3]; the same call gives the same pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

KINDS = ("noise", "blur", "contrast", "colour", "night")


def shift(x: np.ndarray, kind: str, severity: int = 3, seed: int = 0) -> np.ndarray:
    """The pictures x, uint8 [n, H, W, 3], changed by `kind` (one of KINDS) in `severity` 1 to 5; uint8 of the same shape.

    Raises ValueError for a kind or a severity that there is not.
    """
    if kind not in _SHIFTS or severity not in range(1, 6):
        raise ValueError(f"no shift {kind!r} of severity {severity}; kinds are {', '.join(KINDS)}, severities 1 to 5")
    y = _SHIFTS[kind](x.astype(np.float32) / 255, severity, np.random.default_rng(seed))
    return (np.clip(y, 0, 1) * 255).round().astype(np.uint8)


def _noise(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """White noise of deviation 0.04 to 0.2."""
    return x + rng.standard_normal(x.shape, np.float32) * np.float32(0.04 * severity)


def _blur(x: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Gaussian blur of 0.5 to 1.7 pixels, borders repeated."""
    return gaussian(x, 0.2 + 0.3 * severity)


def _contrast(x: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Contrast down to 0.6 to 0.15 around each picture's own mean."""
    kept = (0.6, 0.45, 0.35, 0.25, 0.15)[severity - 1]
    mean = x.mean((1, 2, 3), keepdims=True)
    return mean + (x - mean) * kept


def _colour(x: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Channels turned towards one another (red towards green, green towards blue, ...) and warmer light."""
    share = 0.2 * severity
    turned = (1 - share) * x + share * np.roll(x, 1, axis=-1)
    return turned * np.array([1 + 0.06 * severity, 1.0, 1 - 0.1 * severity], np.float32)


def _night(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Little light: darker by a power, a blue cast, and noise that grows with what light is left."""
    dark = x ** (1 + 0.3 * severity) * np.array([0.75, 0.85, 1.0], np.float32) * (1 - 0.08 * severity)
    return dark + rng.standard_normal(x.shape, np.float32) * np.sqrt(dark + 0.02) * (0.04 * severity)


_SHIFTS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "noise": _noise, "blur": _blur, "contrast": _contrast, "colour": _colour, "night": _night,
}  # fmt: skip


def gaussian(x: np.ndarray, sigma: float) -> np.ndarray:
    """x [n, H, W, 3] blurred with a Gaussian of `sigma` pixels along height and width; the border's values go on outside."""
    radius = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    for axis in (1, 2):
        wide = np.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(4)], mode="edge")
        size = x.shape[axis]
        x = sum(tap * np.take(wide, range(i, i + size), axis) for i, tap in enumerate(taps / taps.sum()))
    return x
