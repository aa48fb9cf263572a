"""Predictions on a terminal: the first rows as a table, and how many pictures each cluster got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from imgclust.types import OTHER

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from imgclust.tagging.rows import Row

TABLE_ROWS = 40
WORTH_A_WORD = 0.05  # second guesses below it are not shown


class PredictionSummary:
    """Counts rows as they pass: how many pictures each cluster got."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.names: dict[int, str | None] = {}
        self.novel = 0
        self.assigned = 0

    @property
    def total(self) -> int:
        return self.counts.total()

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows on, counting them."""
        for row in rows:
            self.counts[row.cluster] += 1
            self.names[row.cluster] = row.name
            self.novel += row.novel
            self.assigned += row.assigned
            yield row


def print_table(rows: Iterable[Row], console: Console, *, limit: int = TABLE_ROWS) -> PredictionSummary:
    """Show predictions on a terminal: the first rows as a table, then a summary of all of them.

    Args:
        rows: read once; beyond `limit` they are counted and not kept.
        console: rich's.
        limit: rows shown.

    Returns:
        The counts that the summary shows.
    """
    tally = PredictionSummary()
    first: list[Row] = []
    for row in tally.watch(rows):
        if len(first) < limit:
            first.append(row)
    console.print(_table(first))
    if tally.total > len(first):
        console.print(
            f"… and {tally.total - len(first):,} more; -o FILE writes all of them",
            style="dim",
            highlight=False,
        )
    print_summary(tally, console)
    return tally


def print_summary(tally: PredictionSummary, console: Console) -> None:
    """Show how many pictures each cluster got, the largest first, "other" last."""
    from rich.table import Table

    ordered = sorted(tally.counts.items(), key=lambda item: (item[0] == OTHER, -item[1], item[0]))
    largest = max(tally.counts.values(), default=1)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in (("cluster", "right"), ("name", "left"), ("pictures", "right"), ("", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for cluster, n in ordered:
        bar = "█" * max(1, round(24 * n / largest))
        number = "" if cluster == OTHER else str(cluster)
        table.add_row(number, _named(cluster, tally.names[cluster]), f"{n:,} ({n / tally.total:.0%})", bar)
    console.print()
    console.print(table)
    found = len(tally.counts.keys() - {OTHER})
    text = f"{tally.total:,} picture{'s' * (tally.total != 1)} in {found} cluster{'s' * (found != 1)}"
    if tally.novel:
        text += f"; {tally.novel:,} unlike anything the model was fitted on"
    if tally.assigned:
        text += f"; {tally.assigned:,} assigned from between clusters"
    console.print(text, highlight=False)


def _table(rows: Iterable[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("picture", "cluster", "probability", "or"):
        table.add_column(heading, justify="right" if heading == "probability" else "left", overflow="fold")
    for row in rows:
        other = [g for g in row.candidates if g.cluster != row.cluster and g.score >= WORTH_A_WORD][:1]
        table.add_row(
            Text(plain(row.id)),
            _named(row.cluster, row.name),
            "" if row.cluster == OTHER else f"{row.probability:.2f}",
            Text(", ".join(f"{plain(g.name or f'#{g.cluster}')} {g.score:.2f}" for g in other), style="dim"),
        )
    return table


def _named(cluster: int, name: str | None) -> Text:
    from rich.text import Text

    if cluster == OTHER:
        return Text("other", style="dim")
    return Text(plain(name)) if name else Text(f"#{cluster}", style="dim")


def plain(text: str) -> str:
    """A text from outside, safe for a terminal: what would move the cursor or is no character is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
