"""Draws a dashboard from a Prometheus' answers, without a Grafana: `pip install matplotlib`, then

python deploy/grafana/draw.py deploy/grafana/dashboards/overview.json http://localhost:9090 -o overview.png
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

WIDTH, UNIT, DPI = 16.0, 0.36, 100  # inches for 24 columns, inches for one grid row, dots per inch
MARGIN = 0.18  # inches around a panel
COLORS = ("#3274d9", "#e0752d", "#56a64b", "#b877d9", "#e02f44", "#e5ac0e", "#37872d", "#8f3bb8",
          "#1f60c4", "#c4162a", "#96d98d", "#ffb357")  # fmt: skip
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 360, 1440, 10080)  # minutes between two labels of the time axis
Series = list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]  # legend, epoch seconds, values


def ask(server: str, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
    """A range query.

    Raises:
        SystemExit: Prometheus refuses the query.
    """
    question = urllib.parse.urlencode({"query": expr, "start": start, "end": end, "step": step})
    try:
        with urllib.request.urlopen(f"{server}/api/v1/query_range?{question}", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{expr}\n{error.read().decode()}") from None


def fill_in(expr: str, rate_interval: str, span: str) -> str:
    """The expression with Grafana's variables as with "All" chosen everywhere."""
    expr = expr.replace("$__rate_interval", rate_interval).replace("$__range", span)
    return re.sub(r"\$(namespace|job|instance)", ".*", expr)


def human(value: float, unit: str) -> str:
    """A number as Grafana writes it."""
    if not math.isfinite(value):
        return "–"
    if unit == "s":
        for factor, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}"
        return "0 s"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    for factor, name in ((2**30, "GiB"), (2**20, "MiB")) if unit == "bytes" else ((1e6, "M"), (1e4, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {name}"
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return digits + (unit.partition(":")[2] if unit.startswith("suffix:") else "")


class Drawing:
    """One dashboard over the last minutes."""

    def __init__(self, board: dict[str, Any], server: str, minutes: float, scrape: float) -> None:
        self.board, self.server = board, server
        self.end = time.time()
        self.start = self.end - 60 * minutes
        self.step = max(scrape, (self.end - self.start) / 240)
        self.rate_interval = f"{math.ceil(max(4 * scrape, self.step))}s"
        self.span = f"{round(60 * minutes)}s"

    def series(self, panel: dict[str, Any]) -> Series:
        found: Series = []
        for target in panel["targets"]:
            expr = fill_in(target["expr"], self.rate_interval, self.span)
            for each in ask(self.server, expr, self.start, self.end, self.step):
                legend = re.sub(
                    r"{{(\w+)}}", lambda m, e=each: e["metric"].get(m[1], ""), target["legendFormat"]
                )
                times, values = np.array(each["values"], float).T
                found.append((legend, times, values))
        return found

    def draw(self) -> plt.Figure:
        panels = self.board["panels"]
        rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
        height = rows * UNIT + 0.7
        figure = plt.figure(figsize=(WIDTH, height), dpi=DPI, facecolor="#f4f5f5")
        figure.text(0.012, 1 - 0.32 / height, self.board["title"], size=17, weight="bold", va="center")
        for panel in panels:
            at = panel["gridPos"]
            left, top = at["x"] / 24 * WIDTH, 0.6 + at["y"] * UNIT
            width, tall = at["w"] / 24 * WIDTH, at["h"] * UNIT
            if panel["type"] == "row":
                y = 1 - (top + tall / 2) / height
                figure.text(0.012, y, panel["title"], size=11.5, weight="bold", color="#52545c", va="center")
                continue
            pad = MARGIN / 2
            box = ((left + pad) / WIDTH, 1 - (top + tall - pad) / height,
                   (width - MARGIN) / WIDTH, (tall - MARGIN) / height)  # fmt: skip
            figure.add_axes(box, facecolor="white", xticks=[], yticks=[])  # the panel's own background
            for edge in figure.axes[-1].spines.values():
                edge.set_color("#d8d9da")
            name = figure.text(box[0] + 0.08 / WIDTH, box[1] + box[3] - 0.05 / height, panel["title"])
            name.set(size=9.5, weight="bold", va="top")
            self._panel(figure, panel, box, height)
        return figure

    def _panel(self, figure: plt.Figure, panel: dict[str, Any], box: Sequence[float], height: float) -> None:
        x, y, w, h = box
        series = self.series(panel)
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        unit = defaults.get("unit", "short")
        if panel["type"] == "stat":
            axes = figure.add_axes((x + 0.004, y + 0.06 / height, w - 0.008, h * 0.3))
            axes.axis("off")
            self._stat(figure, axes, series, unit, (x + w / 2, y + h * 0.52))
            return
        legend = 0.34 if panel["type"] == "timeseries" else 0.1
        axes = figure.add_axes(
            (x + 0.62 / WIDTH, y + (legend + 0.2) / height, w - 0.78 / WIDTH, h - (legend + 0.56) / height)
        )
        axes.tick_params(labelsize=7.5, length=2, colors="#52545c")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if panel["type"] == "heatmap":
            self._heatmap(axes, series, panel["options"]["yAxis"].get("unit", "short"))
        else:
            self._lines(axes, series, defaults, unit)
        axes.set_xlim(self.start / 86400, self.end / 86400)
        between = next(60 * m for m in TICKS if self.end - self.start <= 6 * 60 * m)
        ticks = np.arange(math.ceil(self.start / between) * between, self.end, between)
        axes.set_xticks(ticks / 86400, [time.strftime("%H:%M", time.localtime(t)) for t in ticks])

    def _stat(
        self, figure: plt.Figure, axes: Axes, series: Series, unit: str, center: tuple[float, float]
    ) -> None:
        known = [(t, v) for _, t, v in series if len(v)]
        text = human(float(known[0][1][-1]), unit) if known else "no data"
        figure.text(*center, text, size=22, color=COLORS[0], ha="center", va="center")
        for times, values in known[:1]:
            axes.fill_between(times, np.nan_to_num(values), color=COLORS[0], alpha=0.25, lw=0)
            axes.plot(times, values, color=COLORS[0], lw=1)

    def _lines(self, axes: Axes, series: Series, defaults: dict[str, Any], unit: str) -> None:
        custom = defaults.get("custom", {})
        axes.grid(color="#ececec", lw=0.7)
        axes.set_axisbelow(True)
        if custom.get("stacking", {}).get("mode") == "normal" and series:
            # what is nothing all the time only fills the legend
            series = [s for s in series if np.nanmax(s[2], initial=0) > 0] or series[:1]
            grid = np.arange(self.start, self.end, self.step)
            heights = [np.interp(grid, t, np.nan_to_num(v), left=0, right=0) for _, t, v in series]
            axes.stackplot(
                grid / 86400, heights, labels=[s[0] for s in series], colors=COLORS, alpha=0.6, lw=0
            )
        else:
            for (name, times, values), color in zip(series, COLORS * 9, strict=False):
                gaps = np.concatenate([[0], np.diff(times)]) > 1.5 * self.step
                axes.plot(times / 86400, np.where(gaps, np.nan, values), label=name, color=color, lw=1.2)
        if custom.get("scaleDistribution", {}).get("type") == "log":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0, top=1.02 if defaults.get("max") == 1 else None)
            if axes.get_ylim()[1] <= 0.06 and unit == "short":
                axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value, unit)))
        names = axes.get_legend_handles_labels()[1]
        if names:
            place = axes.get_position()
            height = axes.figure.get_figheight()
            below = (-0.5 / (place.width * WIDTH), -0.2 / (place.height * height))
            axes.legend(
                loc="upper left", bbox_to_anchor=below, fontsize=7,
                ncols=min(round(0.9 * place.width * WIDTH), len(names)),
                frameon=False, handlelength=1.2, columnspacing=1.0, borderaxespad=0,
            )  # fmt: skip
        else:
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="#8e8e8e")

    def _heatmap(self, axes: Axes, series: Series, unit: str) -> None:
        series = sorted(series, key=lambda s: float(s[0]))
        if not series:
            return
        grid = np.arange(self.start, self.end, self.step)
        counts = np.array([np.interp(grid, t, np.nan_to_num(v), left=0, right=0) for _, t, v in series])
        counts = np.diff(counts, axis=0, prepend=0).clip(0)  # buckets are cumulative
        edges = np.arange(len(series) + 1)
        axes.pcolormesh(
            np.append(grid, self.end) / 86400, edges, np.sqrt(counts), cmap="Blues", rasterized=True
        )
        bounds = [human(float(s[0]), unit) if s[0] != "+Inf" else "more" for s in series]
        axes.set_yticks(edges[1:][::2], bounds[::2])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dashboard", type=Path, help="a file of deploy/grafana/dashboards")
    parser.add_argument("prometheus", help="its address, e.g. http://localhost:9090")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a PNG")
    parser.add_argument("--minutes", type=float, default=60, help="how long back (default 60)")
    parser.add_argument("--scrape", type=float, default=15, help="seconds between two scrapes (default 15)")
    given = parser.parse_args()
    board = json.loads(given.dashboard.read_text())
    drawing = Drawing(board, given.prometheus.rstrip("/"), given.minutes, given.scrape)
    drawing.draw().savefig(given.output)


if __name__ == "__main__":
    main()
