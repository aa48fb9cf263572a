"""What the demo shows: live while uploads stream, and a summary at the end. No word of it comes from here
unescaped that came from outside."""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imgclust.support.progress import Listener, Progress
from worker.demo.samples import Samples
from worker.demo.training import Trained
from worker.demo.uploads import DELETED, SUPERSEDED, TAGGED, Ledger, percentile
from worker.messages.text import OTHER, printable
from worker.telemetry.metrics import (
    STAGE_FINISHED,
    STAGE_OUTCOMES,
    STAGE_RECEIVED,
    STAGE_SECONDS,
    STAGES,
    UPLOADS,
)

REFRESH_SECONDS = 0.5  # of a terminal
LINE_SECONDS = 5.0  # between two lines where there is no terminal
TOP = 8  # clusters that are shown
MAX_BAR = 24  # columns
SIDE_BY_SIDE = 76  # columns that two tables need
PLAIN_WIDTH = 110  # columns, where there is no terminal


def named(cluster: int, name: str | None) -> str:
    """A cluster for people."""
    if cluster == OTHER:
        return "other"
    return printable(name, 40).strip("'\"") if name else f"cluster {cluster}"


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
    dead = _dead(ledger).total()
    recent = percentile(ledger.latencies(calm=False), 0.5)
    latency = "" if math.isnan(recent) else f", latency p50 {recent:.2f} s"
    return (
        f"{ledger.done:,} of {len(ledger.events):,} uploads done, {moment.rate:.0f} images/s{latency}, "
        f"{dead} dead letters"
    )


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
        each = _seconds(spent / count) if count else "–"
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


def _dead(ledger: Ledger) -> Counter[str]:
    alive = (TAGGED, DELETED)
    return Counter({code: n for code, n in ledger.outcomes().items() if code not in alive})


# ── the summary ──────────────────────────────────────────────────────────────────────────────────────────


def latency_line(seconds: Sequence[float]) -> str:
    """p50, p95 and p99 in words."""
    shown = (f"p{share * 100:.0f} {_seconds(percentile(seconds, share))}" for share in (0.5, 0.95, 0.99))
    return ", ".join(shown)


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def dead_table(ledger: Ledger) -> Table:
    """Dead letters by code, each with an example."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("code", "", "for example", "because"):
        table.add_column(title, overflow="fold")
    counts = _dead(ledger)
    examples: dict[str, tuple[str, str]] = {}
    for number, result in sorted(ledger.results.items()):
        examples.setdefault(result.outcome, (ledger.events[number].key, result.message))
    for code in sorted(counts):
        key, message = examples[code]
        table.add_row(code, str(counts[code]), escape(key), escape(message))
    return table


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """How well clusters match the categories of a labels.csv.

    Attributes:
        information: adjusted mutual information over the pictures that are not in "other"; 1 is perfect, 0 is
            chance.
        main: cluster → its most frequent category, how often, of how many.
    """

    information: float
    main: dict[int, tuple[str, int, int]]


def agreement(labels: Mapping[int, int], categories: Sequence[str]) -> Agreement:
    """Compare clusters with categories; `labels`: picture → cluster."""
    from sklearn.metrics import adjusted_mutual_info_score

    inside = {image: cluster for image, cluster in labels.items() if cluster != OTHER}
    members: dict[int, Counter[str]] = {}
    for image, cluster in inside.items():
        members.setdefault(cluster, Counter())[categories[image]] += 1
    truth = [categories[image] for image in inside]
    score = adjusted_mutual_info_score(truth, list(inside.values())) if inside else 0.0
    main = {c: (*counts.most_common(1)[0], counts.total()) for c, counts in members.items()}
    return Agreement(float(score), main)


def largest_table(ledger: Ledger, found: Agreement | None) -> Table:
    """The largest clusters with their names and, where it is known, their main category."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("cluster")
    table.add_column("tags", justify="right")
    table.add_column("mostly" if found else "")
    for (cluster, name), count in ledger.clusters().most_common(TOP + 1):
        mostly = ""
        if found and cluster in found.main:
            category, times, of = found.main[cluster]
            mostly = f"{escape(category)} ({times} of {of} pictures)"
        table.add_row(escape(named(cluster, name)), f"{count:,}", mostly)
    return table


def outcome_line(ledger: Ledger, samples: Samples) -> str:
    """How many uploads ended how."""
    counts = ledger.outcomes()
    superseded = samples.value(UPLOADS.name, outcome=SUPERSEDED)
    return (
        f"{counts[TAGGED]:,} tagged, {_dead(ledger).total()} dead letters, "
        f"{superseded:.0f} superseded by a later event, {counts[DELETED]} deleted"
    )


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    """What a figure is about, and the figure."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for about, figure in facts:
        table.add_row(about, escape(figure))
    return table


def short_path(path: Path) -> Path:
    """A path as a user would write it: below the current folder, if it is there."""
    full = path.absolute()
    return full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full


def next_commands(trained: Trained, out: Path) -> dict[str, str]:
    """What may be tried next: command, ready to be pasted → what it does."""
    programs = Path(sys.executable).parent
    tool, worker = (shlex.quote(str(short_path(programs / n))) for n in ("imgclust", "imgclust-worker"))
    model, picture = (shlex.quote(str(short_path(p))) for p in (trained.model, trained.files[0]))
    embeddings, other = (shlex.quote(str(short_path(out / n))) for n in ("embeddings", "other-model"))
    larger = 2 * trained.min_cluster_size
    return {
        f"{tool} predict {model} {picture}": "the cluster of a picture",
        f"{tool} fit {embeddings} -o {other} --min-cluster-size {larger}": "fewer, larger clusters",
        f"{worker} demo ~/Pictures": "all of this with your own pictures",
    }
