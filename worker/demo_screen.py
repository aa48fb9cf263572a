"""What the demo shows: live while uploads stream, and a summary at the end. No word of it comes from here
unescaped that came from outside."""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imgclust.progress import Listener, Progress
from worker.demo_images import Trained
from worker.demo_stream import Samples
from worker.demo_uploads import DELETED, SUPERSEDED, TAGGED, Ledger, percentile
from worker.messages import OTHER, printable
from worker.metrics import STAGE_FINISHED, STAGE_OUTCOMES, STAGE_RECEIVED, STAGE_SECONDS, STAGES

REFRESH_SECONDS = 0.5  # of a terminal
LINE_SECONDS = 5.0  # between two lines where there is no terminal
TOP = 8  # clusters that are shown
BAR = 24


def named(cluster: int, name: str | None) -> str:
    """A cluster for people."""
    if cluster == OTHER:
        return "other"
    return printable(name, 40).strip("'\"") if name else f"cluster {cluster}"


class Screen:
    """Headings, remarks, progress: on a terminal or as plain lines."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._started = clock()

    def step(self, title: str) -> None:
        """A new part of the demo begins."""
        elapsed = self._clock() - self._started
        self.console.print(f"\n[bold cyan]{escape(title)}[/] [dim]{elapsed:.0f} s[/]")

    def say(self, text: str, style: str = "") -> None:
        self.console.print(f"  {escape(text)}", style=style or None, soft_wrap=not self.console.is_terminal)

    def table(self, title: str, table: Table) -> None:
        self.console.print(f"\n  [bold]{escape(title)}[/]")
        self.console.print(Padding(table, (0, 0, 0, 2)))

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
    def streaming(self, picture: Callable[[], RenderableType], line: Callable[[], str]) -> Iterator[Ticker]:
        """Shows `picture` on a terminal, else a `line` now and then; the caller calls what it yields."""
        if not self.console.is_terminal:
            yield Ticker(LINE_SECONDS, lambda: self.say(line()), self._clock)
            return
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
    """How the stream stands. `samples` is None while the worker does not answer."""

    ledger: Ledger
    rate: float
    samples: Samples | None


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


def moment_picture(moment: Moment) -> RenderableType:
    """The live view of a terminal."""
    done, total = moment.ledger.done, len(moment.ledger.events)
    head = Table.grid(padding=(0, 2))
    head.add_row(ProgressBar(total=total, completed=done, width=40), moment_line(moment))
    both = Table.grid(padding=(0, 4))
    both.add_row(_stages(moment.samples), clusters_table(moment.ledger, TOP))
    return Group(Text(), head, Text(), both, Text())


def _stages(samples: Samples | None) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("stage of the worker")
    for title in ("done", "inside", "each"):
        table.add_column(title, justify="right")
    samples = samples or {}
    for stage in STAGES:
        finished = sum(samples.get((STAGE_FINISHED.name, (stage, o)), 0) for o in STAGE_OUTCOMES)
        inside = samples.get((STAGE_RECEIVED.name, (stage,)), 0) - finished
        count = samples.get((f"{STAGE_SECONDS.name}_count", (stage,)), 0)
        spent = samples.get((f"{STAGE_SECONDS.name}_sum", (stage,)), 0)
        each = f"{1000 * spent / count:.1f} ms" if count else "–"
        table.add_row(stage, f"{finished:,.0f}", f"{max(inside, 0):,.0f}", each)
    return table


def clusters_table(ledger: Ledger, top: int) -> Table:
    """The clusters with most tags, as bars."""
    counts = ledger.clusters()
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("tags by cluster", max_width=28, no_wrap=True)
    table.add_column("")
    table.add_column("", justify="right")
    shown = counts.most_common(top)
    most = max((count for _, count in shown), default=1)
    for (cluster, name), count in shown:
        style = "dim" if cluster == OTHER else "cyan"
        bar = Text("█" * max(1, round(BAR * count / most)), style)
        table.add_row(escape(named(cluster, name)), bar, f"{count:,}")
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
        other: share of the pictures in "other".
        main: cluster → its most frequent category, how often, of how many.
    """

    information: float
    other: float
    main: dict[int, tuple[str, int, int]]


def agreement(labels: dict[int, int], categories: Sequence[str]) -> Agreement:
    """Compare clusters with categories; `labels`: picture → cluster, at least one."""
    from sklearn.metrics import adjusted_mutual_info_score

    inside = {image: cluster for image, cluster in labels.items() if cluster != OTHER}
    members: dict[int, Counter[str]] = {}
    for image, cluster in inside.items():
        members.setdefault(cluster, Counter())[categories[image]] += 1
    score = adjusted_mutual_info_score([categories[i] for i in inside], list(inside.values()))
    main = {c: (*counts.most_common(1)[0], counts.total()) for c, counts in members.items()}
    return Agreement(float(score), 1 - len(inside) / len(labels), main)


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


def outcome_line(ledger: Ledger, samples: Samples | None) -> str:
    """How many uploads ended how."""
    counts = ledger.outcomes()
    superseded = (samples or {}).get(("imgclust_uploads_total", (SUPERSEDED,)), 0)
    return (
        f"{counts[TAGGED]:,} tagged, {_dead(ledger).total()} dead letters, "
        f"{superseded:.0f} superseded by a later event, {counts[DELETED]} deleted"
    )


def short_path(path: Path) -> str:
    """A path as a user would write it: below the current folder, if it is there."""
    full = path.resolve()
    here = Path.cwd()
    return printable(str(full.relative_to(here) if full.is_relative_to(here) else full)).strip("'\"")


def next_commands(trained: Trained, out: Path) -> list[str]:
    """What may be tried next, ready to be pasted."""
    program = short_path(Path(sys.executable).parent / "imgclust")
    model, folder = shlex.quote(str(trained.model)), shlex.quote(str(out / "embeddings"))
    picture = shlex.quote(str(trained.files[0]))
    return [
        f"{program} predict {model} {picture}",
        f"{program} fit {folder} -o {shlex.quote(str(out / 'another-model'))} --seed 1",
        "make demo IMAGES=~/Pictures",
    ]
