"""Pictures → rows that say which cluster each belongs to; and what a terminal shows of them.

Everything streams: a million pictures need no more memory than a batch. Rows are made by `predict_paths`,
`predict_lines` or `predict_embeddings`, may pass through `sorting.copy_to` or `link_to`, and end in
`prediction_files.write_rows` or `print_table`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclust.sources import Item, from_lines, items
from imgclust.types import Encoder, Floats

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from imgclust.embed import Failed, Outcome
    from imgclust.model import ClusterModel
    from imgclust.reading import Reader

OTHER = -1
TABLE_ROWS = 40
WORTH_A_WORD = 0.05  # second guesses below it are not shown on a terminal
CHUNK = 1024  # embeddings predicted before the first of them is passed on


@dataclasses.dataclass(frozen=True, slots=True)
class Guess:
    """A likely cluster of one picture; `score` is its soft membership, 0..1."""

    cluster: int
    name: str | None
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What a model says of one picture; the fields mean what they mean in a tag.

    Attributes:
        id: as `imgclust embed` would name it: the path below the folder that was given.
        source: where the picture was read: a path or a URL.
        cluster, name: its cluster; -1 and None are "other".
        probability: strength of the membership, 0..1; 0 for "other".
        novel: unlike anything the model was fitted on.
        candidates: at most three likely clusters, best first, also for "other".
        model, taxonomy: which model said so, and what its cluster numbers mean.
        attributes: what a list or an embeddings folder said of the picture.
    """

    id: str
    source: str
    cluster: int
    name: str | None
    probability: float
    novel: bool
    candidates: tuple[Guess, ...]
    model: str
    taxonomy: str
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def predict_paths(
    model: ClusterModel,
    encoder: Encoder,
    sources: Iterable[str | Path],
    *,
    on_failed: Callable[[Failed], None] | None = None,
    skipped: Counter[str] | None = None,
    workers: int | None = None,
    reader: Reader | None = None,
) -> Iterator[Row]:
    """Predict pictures as they are read, in their order, a batch at a time.

    Args:
        model: what predicts.
        encoder: the one whose embeddings the model takes.
        sources: folders, files, CSV/TSV/Parquet lists, http(s) URLs; see `imgclust.sources.items`.
        on_failed: told of each picture that could not be had; it stops nobody.
        skipped: counts by reason what a folder holds beside pictures.
        workers: threads that decode; by default as many as cores.
        reader: how bytes are had; by default files, and URLs of public addresses.

    Raises:
        EmbeddingsError: the encoder is not the model's.
        ImgclustError: a source does not exist.
    """
    skipped = Counter() if skipped is None else skipped
    return _predict_items(model, encoder, items(sources, skipped), on_failed, skipped, workers, reader)


def predict_lines(
    model: ClusterModel,
    encoder: Encoder,
    lines: Iterable[str],
    *,
    on_failed: Callable[[Failed], None] | None = None,
    workers: int | None = None,
    reader: Reader | None = None,
) -> Iterator[Row]:
    """Predict a stream of paths and URLs, one a line; otherwise as `predict_paths`."""
    return _predict_items(model, encoder, from_lines(lines), on_failed, Counter(), workers, reader)


def _predict_items(
    model: ClusterModel,
    encoder: Encoder,
    found: Iterable[Item],
    on_failed: Callable[[Failed], None] | None,
    skipped: Counter[str],
    workers: int | None,
    reader: Reader | None,
) -> Iterator[Row]:
    """Check at once, so that nobody waits for the first picture to learn of a wrong encoder."""
    from imgclust.embed import stream

    model.check_encoder(encoder.identity)
    return _rows_of(model, stream(found, encoder, workers=workers, reader=reader), on_failed, skipped)


def _rows_of(
    model: ClusterModel,
    batches: Iterable[list[Outcome]],
    on_failed: Callable[[Failed], None] | None,
    skipped: Counter[str],
) -> Iterator[Row]:
    from imgclust.embed import NOT_AN_IMAGE, Embedded, Failed, Skipped

    for outcomes in batches:
        embedded = [o for o in outcomes if isinstance(o, Embedded)]
        for outcome in outcomes:
            if isinstance(outcome, Failed) and on_failed:
                on_failed(outcome)
            elif isinstance(outcome, Skipped):
                skipped[NOT_AN_IMAGE] += 1
        if embedded:
            yield from predict_rows(
                model,
                [o.item.id for o in embedded],
                [o.item.source for o in embedded],
                np.stack([o.vector for o in embedded]),
                [o.item.attributes for o in embedded],
            )


def predict_rows(
    model: ClusterModel,
    ids: Sequence[str],
    sources: Sequence[str],
    embeddings: Floats,
    attributes: Sequence[Mapping[str, Any]],
) -> Iterator[Row]:
    """Predict one batch.

    Args:
        ids, sources, attributes: n each.
        embeddings: float (n, dim), unit-norm rows.

    Raises:
        EmbeddingsError: the embeddings are not ones that the model takes.
    """
    said = model.predict(embeddings)
    version, taxonomy = model.version, model.taxonomy
    for i, (image, source, known) in enumerate(zip(ids, sources, attributes, strict=True)):
        cluster = int(said.labels[i])
        likely = zip(said.candidates[i].tolist(), said.scores[i].tolist(), strict=True)
        yield Row(
            id=image,
            source=source,
            cluster=cluster,
            name=model.name(cluster),
            probability=float(said.probabilities[i]),
            novel=bool(said.novel[i]),
            candidates=tuple(Guess(c, model.name(c), s) for c, s in likely if c != OTHER),
            model=version,
            taxonomy=taxonomy,
            attributes=known,
        )


def predict_embeddings(model: ClusterModel, folder: Path) -> Iterator[Row]:
    """Predict an embeddings folder, shard by shard.

    Raises:
        EmbeddingsError: the folder is unreadable, or of another encoder than the model's.
    """
    from imgclust.embeddings import iter_embeddings

    for shard in iter_embeddings(folder):
        model.check_encoder(shard.identity)
        for start in range(0, len(shard), CHUNK):
            part = slice(start, start + CHUNK)
            yield from predict_rows(
                model, shard.ids[part], shard.sources[part], shard.vectors[part], shard.attributes[part]
            )


class Tally:
    """Counts rows as they pass: how many pictures each cluster got."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.names: dict[int, str | None] = {}
        self.novel = 0

    @property
    def total(self) -> int:
        return self.counts.total()

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows on, counting them."""
        for row in rows:
            self.counts[row.cluster] += 1
            self.names[row.cluster] = row.name
            self.novel += row.novel
            yield row


def print_table(rows: Iterable[Row], console: Console, *, limit: int = TABLE_ROWS) -> Tally:
    """Show predictions on a terminal: the first rows as a table, then a summary of all of them.

    Args:
        rows: read once; beyond `limit` they are counted and not kept.
        console: rich's.
        limit: rows shown.

    Returns:
        The counts that the summary shows.
    """
    tally = Tally()
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


def print_summary(tally: Tally, console: Console) -> None:
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
