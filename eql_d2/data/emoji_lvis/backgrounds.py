"""Procedural backgrounds: gradients, clouds, stripes, checkers, blobs and speckle, in any mixture."""

from __future__ import annotations

import cv2
import numpy as np


def draw_background(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a background: one pattern, often with a second one mixed in.

    Returns:
        Float32 array (side, side, 3) in [0, 1].
    """
    canvas = _draw_pattern(side, rng)
    if rng.random() < 0.6:
        opacity = _clouds(side, rng)[..., None] if rng.random() < 0.5 else np.float32(rng.uniform(0.2, 0.6))
        canvas = canvas * (1 - opacity) + _draw_pattern(side, rng) * opacity
    return canvas


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """A colour (3,) in [0, 1], any hue, more often muted than vivid."""
    grey = rng.uniform(0.08, 0.95)
    vividness = rng.beta(1.3, 2.0)
    return (grey + vividness * (rng.random(3) - grey)).astype(np.float32)


def _draw_pattern(side: int, rng: np.random.Generator) -> np.ndarray:
    weight = _PATTERNS[rng.integers(len(_PATTERNS))](side, rng)[..., None]
    return random_colour(rng) * (1 - weight) + random_colour(rng) * weight


def _ramp(side: int, rng: np.random.Generator) -> np.ndarray:
    """Pixel coordinate along a random direction, from about -0.7 to 0.7."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    return np.float32(np.cos(angle)) * axis[None, :] + np.float32(np.sin(angle)) * axis[:, None]


def _gradient(side: int, rng: np.random.Generator) -> np.ndarray:
    return np.clip(_ramp(side, rng) * np.float32(rng.uniform(0.6, 2.0)) + 0.5, 0, 1)


def _clouds(side: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise: random grids of growing fineness, each with half the strength of the one before."""
    total = np.zeros((side, side), np.float32)
    first = int(rng.integers(2, 5))
    for octave in range(4):
        cells = first * 2**octave
        grid = rng.random((cells, cells), dtype=np.float32)
        total += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC) / 2**octave
    return cv2.normalize(total, total, 0, 1, cv2.NORM_MINMAX)


def _stripes(side: int, rng: np.random.Generator) -> np.ndarray:
    waves = np.sin(_ramp(side, rng) * np.float32(2 * np.pi * rng.uniform(3, 16)) + np.float32(rng.uniform(0, 6)))
    sharpness = np.float32(rng.uniform(0.5, 6))
    return np.clip(waves * sharpness + 0.5, 0, 1)


def _checker(side: int, rng: np.random.Generator) -> np.ndarray:
    cell = rng.uniform(0.04, 0.2)
    angle = rng.uniform(0, np.pi / 2)
    axis = np.arange(side, dtype=np.float32) / side
    u = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    v = np.cos(angle) * axis[:, None] - np.sin(angle) * axis[None, :]
    return ((np.floor(u / cell) + np.floor(v / cell)) % 2).astype(np.float32)


def _blobs(side: int, rng: np.random.Generator) -> np.ndarray:
    levels = int(rng.integers(2, 5))
    return np.floor(_clouds(side, rng) * levels).clip(0, levels - 1) / np.float32(max(levels - 1, 1))


def _speckle(side: int, rng: np.random.Generator) -> np.ndarray:
    cells = int(side / rng.uniform(1.5, 8))
    grid = rng.random((cells, cells), dtype=np.float32)
    interpolation = (cv2.INTER_NEAREST, cv2.INTER_LINEAR)[rng.integers(2)]
    return cv2.resize(grid, (side, side), interpolation=interpolation)


_PATTERNS = (_gradient, _clouds, _stripes, _checker, _blobs, _speckle)
