"""What the demo shows of its results: figures, tables, what may be tried next. Nothing that came from outside
is shown unescaped."""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from imgclust.types import OTHER
from worker.demo.samples import Samples
from worker.demo.training import Trained
from worker.demo.uploads import DELETED, SUPERSEDED, TAGGED, Ledger, percentile
from worker.messages.text import printable
from worker.telemetry.upload_metrics import UPLOADS

TOP = 8  # clusters that are shown


def named(cluster: int, name: str | None) -> str:
    """A cluster for people."""
    if cluster == OTHER:
        return "other"
    return printable(name, 40).strip("'\"") if name else f"cluster {cluster}"


def dead_letters(ledger: Ledger) -> Counter[str]:
    alive = (TAGGED, DELETED)
    return Counter({code: n for code, n in ledger.outcomes().items() if code not in alive})


def latency_line(seconds: Sequence[float]) -> str:
    """p50, p95 and p99 in words."""
    shown = (f"p{share * 100:.0f} {duration(percentile(seconds, share))}" for share in (0.5, 0.95, 0.99))
    return ", ".join(shown)


def duration(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def dead_table(ledger: Ledger) -> Table:
    """Dead letters by code, each with an example."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("code", "", "for example", "because"):
        table.add_column(title, overflow="fold")
    counts = dead_letters(ledger)
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
        f"{counts[TAGGED]:,} tagged, {dead_letters(ledger).total()} dead letters, "
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
    fewer = max(2, trained.clusters // 2)
    return {
        f"{tool} predict {model} {picture}": "the cluster of a picture",
        f"{tool} fit {embeddings} -o {other} --clusters {fewer}": "fewer, larger clusters",
        f"{worker} demo ~/Pictures": "all of this with your own pictures",
    }
