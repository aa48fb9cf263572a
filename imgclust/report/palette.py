"""Colours for clusters on a map: told apart by most eyes, and most different where clusters touch.

Fifty colours cannot all be told apart, by anyone; so each colour also has its name beside it on the page,
and what is left to do is to give clusters that lie side by side colours that are far apart, also for
people who see no difference between red and green.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_COLOURS = 50

_Array = npt.NDArray[np.float64]

# Björn Ottosson, "A perceptual color space for image processing" (2020): linear sRGB ↔ OKLab.
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision deficiency"
# (2009), severity 1, on linear sRGB: what a protanope and a deuteranope see.
_VISIONS = (
    np.eye(3),
    np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
)

# Three lightnesses of each hue, per theme: dark enough to stand on paper, light enough to stand on black.
_LIGHT_THEME = (0.47, 0.60, 0.73)
_DARK_THEME = (0.58, 0.71, 0.84)
_HUES = np.arange(0, 360, 15)
_CHROMA = 0.155  # calm; less where sRGB has no such colour
_LEAST_CHROMA = 0.075  # paler ones would read as the grey of "other"
_NEAR = 0.18  # clusters nearer than this share of the map's width should differ most


def _linear(lch: _Array) -> _Array:
    """OKLCH (…, 3), hue in degrees → linear sRGB (…, 3), not clipped."""
    angle = np.deg2rad(lch[..., 2])
    lab = np.stack([lch[..., 0], lch[..., 1] * np.cos(angle), lch[..., 1] * np.sin(angle)], -1)
    lms: _Array = (lab @ np.linalg.inv(_TO_LAB).T) ** 3
    return np.asarray(lms @ np.linalg.inv(_TO_LMS).T)


def _lab(linear: _Array) -> _Array:
    return np.asarray(np.cbrt(np.clip(linear, 0, 1) @ _TO_LMS.T) @ _TO_LAB.T)


def _hex(linear: _Array) -> str:
    clipped = np.clip(linear, 0, 1)
    encoded = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(v * 255):02x}" for v in encoded)


def _in_gamut(lightness: float, hue: float) -> _Array:
    """The most colourful sRGB colour of this lightness and hue, up to the calm chroma."""
    steps = np.linspace(0, _CHROMA, 63)
    rgb = _linear(np.stack([np.full_like(steps, lightness), steps, np.full_like(steps, hue)], -1))
    fits = np.all((rgb > -1e-4) & (rgb < 1 + 1e-4), axis=1)
    return np.array([lightness, steps[fits][-1], hue])


def differences(linear: _Array) -> _Array:
    """Linear sRGB (n, 3) → OKLab distances (n, n): the smallest over normal, protan and deutan vision."""
    seen = [_lab(linear @ vision.T) for vision in _VISIONS]
    return np.asarray(np.min([np.linalg.norm(v[:, None] - v[None], axis=2) for v in seen], axis=0))


@functools.cache
def _palette() -> tuple[list[tuple[str, str]], _Array]:
    """Up to 50 (light theme, dark theme) pairs, each as far as can be from those before it, and distances."""
    light, dark = [], []
    for level in range(3):
        for hue in _HUES:
            pair = _in_gamut(_LIGHT_THEME[level], float(hue)), _in_gamut(_DARK_THEME[level], float(hue))
            if min(pair[0][1], pair[1][1]) >= _LEAST_CHROMA:
                light.append(_linear(pair[0]))
                dark.append(_linear(pair[1]))
    apart = np.minimum(differences(np.array(light)), differences(np.array(dark)))
    chosen = [int(np.argmax(apart.sum(axis=1)))]
    while len(chosen) < min(MAX_COLOURS, len(light)):
        chosen.append(int(np.argmax(apart[:, chosen].min(axis=1))))
    return [(_hex(light[i]), _hex(dark[i])) for i in chosen], apart[np.ix_(chosen, chosen)]


def colours(centres: npt.NDArray[Any]) -> list[tuple[str, str]]:
    """Give each cluster a colour that differs most from those of the clusters beside it.

    Args:
        centres: float (n, 2), the clusters' centres on the map, in any unit; the largest cluster first.

    Returns:
        n pairs (`#rrggbb` on a light page, `#rrggbb` on a dark page). Beyond 50 clusters colours repeat,
        far from each other.
    """
    palette, apart = _palette()
    palette, apart = palette[: max(len(centres), 1)], apart[: len(centres), : len(centres)]
    width = float(np.ptp(centres, axis=0).max()) if len(centres) else 0.0
    places = np.asarray(centres, np.float64) / (width or 1.0)
    taken: list[int] = []
    given = np.zeros(len(palette), np.int64)
    for i in range(len(places)):
        nearness = np.exp(-(np.linalg.norm(places[:i] - places[i], axis=1) ** 2) / (2 * _NEAR**2))
        clash = (nearness / (apart[:, taken] + 0.02) ** 2).sum(axis=1)
        clash[given > i // len(palette)] = np.inf  # no colour once more before all are taken
        taken.append(int(np.argmin(clash)))
        given[taken[-1]] += 1
    return [palette[c] for c in taken]
