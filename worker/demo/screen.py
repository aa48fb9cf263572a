"""What the demo shows while uploads stream. Nothing that came from outside is shown unescaped."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imgclust.support.progress import Listener, Progress
from imgclust.types import OTHER
from worker.demo.samples import Samples
from worker.demo.summary import TOP, dead_letters, duration, named
from worker.demo.uploads import Ledger, percentile
from worker.telemetry.upload_metrics import (
    STAGE_FINISHED,
    STAGE_OUTCOMES,
    STAGE_RECEIVED,
    STAGE_SECONDS,
    STAGES,
)

REFRESH_SECONDS = 0.5  # of a terminal
LINE_SECONDS = 5.0  # between two lines where there is no terminal
MAX_BAR = 24  # columns
SIDE_BY_SIDE = 76  # columns that two tables need
PLAIN_WIDTH = 110  # columns, where there is no terminal


class Screen:
    """Headings, remarks, progress: on a terminal or as plain lines."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        # the file by name: libraries that print are kept quiet by a replaced sys.stdout
        width = None if sys.stdout.isatty() else PLAIN_WIDTH
        self.console = console or Console(file=sys.stdout, width=width, highlight=False)
        self._clock = clock
        self._started = clock()

    def step(self, title: str) -> None:
        """A new part of the demo begins."""
        elapsed = self._clock() - self._started
        self.console.print(f"\n[bold cyan]{escape(title)}[/] [dim]at {elapsed:.0f} s[/]")

    def say(self, text: str, style: str = "") -> None:
        if self.console.is_terminal:
            self.console.print(Padding(Text(text, style), (0, 0, 0, 2)))
        else:
            self.console.print(f"  {text}", markup=False, soft_wrap=True)

    def paste(self, command: str) -> None:
        """A command, in one piece however narrow the terminal is."""
        self.console.print(Text(f"    {command}", "cyan"), soft_wrap=True)

    def table(self, table: Table, title: str = "") -> None:
        if title:
            self.console.print(f"\n  [bold]{escape(title)}[/]")
        self.console.print(Padding(table, (0, 0, 0, 2), expand=False))

    @contextmanager
    def stages(self, titles: dict[str, str]) -> Iterator[Listener]:
        """Shows the stages of a fit: a line that moves on a terminal, else one line for each that ended."""
        ended: set[str] = set()
        with self.console.status("") as status:

            def listen(progress: Progress) -> None:
                title = titles.get(progress.stage, progress.stage)
                if progress.stage in ended:
                    return
                if progress.done == 1:
                    ended.add(progress.stage)
                    self.say(f"{title}: {progress.elapsed:.1f} s", "dim")
                else:
                    share = "" if progress.done is None else f" {progress.done:.0%}"
                    status.update(f"{escape(title)}{share}")

            yield listen

    @contextmanager
    def streaming(self, moment: Callable[[], Moment]) -> Iterator[Ticker]:
        """Shows how the stream stands, on a terminal as a picture, else as a line now and then; the caller
        calls what it yields as often as it likes."""
        if not self.console.is_terminal:
            yield Ticker(LINE_SECONDS, lambda: self.say(moment_line(moment())), self._clock)
            return

        def picture() -> RenderableType:
            return moment_picture(moment(), self.console.width)

        with Live(picture(), console=self.console, auto_refresh=False, transient=True) as live:
            yield Ticker(REFRESH_SECONDS, lambda: live.update(picture(), refresh=True), self._clock)


class Ticker:
    """Calls something, but not more often than every so many seconds."""

    def __init__(self, seconds: float, action: Callable[[], None], clock: Callable[[], float]) -> None:
        self._seconds, self._action, self._clock = seconds, action, clock
        self._next = clock() + seconds

    def __call__(self) -> None:
        if self._clock() >= self._next:
            self._next = self._clock() + self._seconds
            self._action()


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """How the stream stands: what has ended, results per second, and what the worker says of itself."""

    ledger: Ledger
    rate: float
    samples: Samples


def moment_line(moment: Moment) -> str:
    """One line about the stream."""
    ledger = moment.ledger
    dead = dead_letters(ledger).total()
    recent = percentile(ledger.latencies(calm=ledger.is_calm), 0.5)
    latency = "" if math.isnan(recent) else f", latency p50 {recent:.2f} s"
    speed = f"{moment.rate:.0f} images/s"
    if ledger.is_calm:
        speed = f"the last {ledger.calm} are sent one by one"
    done = f"{ledger.done:,} of {len(ledger.events):,} uploads done"
    return f"{done}, {speed}{latency}, {dead} dead letters"


def moment_picture(moment: Moment, width: int) -> RenderableType:
    """The live view of a terminal of that many columns."""
    done, total = moment.ledger.done, len(moment.ledger.events)
    progress = Table.grid()
    progress.add_row(ProgressBar(total=total, completed=done, width=max(10, min(width - 4, 100))))
    progress.add_row(Text(moment_line(moment)))
    stages = _stages(moment.samples)
    bar = max(6, min(MAX_BAR, width - 80))
    clusters = clusters_table(moment.ledger, bar)
    if width < SIDE_BY_SIDE:
        return Padding(Group(progress, Text(), stages, Text(), clusters), (1, 2))
    both = Table.grid(padding=(0, 3))
    both.add_row(stages, clusters)
    return Padding(Group(progress, Text(), both), (1, 2))


def _stages(samples: Samples) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage")
    for title in ("done", "inside", "each"):
        table.add_column(title, justify="right", min_width=6, no_wrap=True)
    for stage in STAGES:
        outcomes = (samples.value(STAGE_FINISHED.name, stage=stage, outcome=o) for o in STAGE_OUTCOMES)
        finished = sum(outcomes)
        inside = samples.value(STAGE_RECEIVED.name, stage=stage) - finished
        count = samples.value(f"{STAGE_SECONDS.name}_count", stage=stage)
        spent = samples.value(f"{STAGE_SECONDS.name}_sum", stage=stage)
        each = duration(spent / count) if count else "–"
        table.add_row(stage, f"{finished:,.0f}", f"{max(inside, 0):,.0f}", each)
    return table


def clusters_table(ledger: Ledger, bar: int) -> Table:
    """The clusters with most tags, as bars of at most `bar` columns."""
    counts = ledger.clusters()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("tags by cluster", max_width=24, min_width=15, no_wrap=True)
    table.add_column("")
    table.add_column("", justify="right")
    shown = counts.most_common(TOP)
    most = max((count for _, count in shown), default=1)
    for (cluster, name), count in shown:
        style = "dim" if cluster == OTHER else "cyan"
        drawn = Text("█" * max(1, round(bar * count / most)), style)
        table.add_row(escape(named(cluster, name)), drawn, f"{count:,}")
    rest = counts.total() - sum(count for _, count in shown)
    if rest:
        table.add_row(f"{len(counts) - len(shown)} more", "", f"{rest:,}", style="dim")
    return table
