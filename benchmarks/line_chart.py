"""Curves as an SVG drawing, for the documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 52, 24, 44, 44
TITLE = 7.5  # of a curve: a letter's width, about
SHADES = ("#f1efea", "#fff")


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """One curve; its title is written above the chart, in its colour."""

    title: str
    colour: str
    points: Sequence[tuple[float, float]]


def line_chart(
    curves: Sequence[Curve],
    *,
    limits: Sequence[float],
    ticks: Sequence[tuple[float, str]],
    axis: str = "",
    bands: Sequence[tuple[float, float]] = (),
    width: int = 720,
    height: int = 320,
) -> str:
    """An SVG of the curves; its vertical axis begins at zero, or at the lowest value below it.

    Args:
        limits: values that get a dashed line with their number.
        ticks: (place, text) below the chart.
        axis: what the ticks are; written below them.
        bands: (from, to) along the horizontal axis, shaded in turns.
    """
    along = [x for curve in curves for x, _ in curve.points] + [x for band in bands for x in band]
    values = [y for curve in curves for _, y in curve.points] + list(limits)
    first, last = min(along), max(along)
    lowest = min(0.0, *values)
    highest = lowest + (max(values) - lowest) * 1.06

    def place(x: float) -> float:
        return LEFT + (x - first) / (last - first) * (width - LEFT - RIGHT)

    def level(y: float) -> float:
        return height - BOTTOM - (y - lowest) / (highest - lowest) * (height - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#67635c">',
        f'<rect width="{width}" height="{height}" rx="12" fill="#fff"/>',
    ]
    for number, (start, end) in enumerate(bands):
        parts.append(
            f'<rect x="{place(start):.1f}" y="{TOP}" width="{place(end) - place(start):.1f}" '
            f'height="{height - BOTTOM - TOP}" fill="{SHADES[number % 2]}"/>'
        )
    for limit in limits:
        parts.append(
            f'<path d="M{LEFT} {level(limit):.1f}H{width - RIGHT}" stroke="#bbb" stroke-dasharray="3 4"/>'
            f'<text x="{LEFT - 8}" y="{level(limit) + 4:.1f}" text-anchor="end">{limit:g}</text>'
        )
    for x, text in ticks:
        parts.append(_centred(place(x), height - BOTTOM + 18, text))
    if axis:
        parts.append(_centred(width / 2, height - 8, axis))
    title_at = float(LEFT)
    for curve in curves:
        points = " ".join(f"{place(x):.1f},{level(y):.1f}" for x, y in curve.points)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{curve.colour}" stroke-width="2.2" '
            f'stroke-linejoin="round"/><text x="{title_at:.0f}" y="24" fill="{curve.colour}" '
            f'font-weight="600">{escape(curve.title)}</text>'
        )
        title_at += TITLE * len(curve.title) + 24
    return "\n".join([*parts, "</svg>"]) + "\n"


def _centred(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'
