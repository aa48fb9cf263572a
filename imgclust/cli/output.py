"""What commands print: results on stdout, remarks on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from imgclust.cli.options import PAGE_ENDING, RESULT_ENDINGS
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.model.parts import Cluster


class ResultWriter(Protocol):
    """A module that writes one kind of result for people and programs."""

    @property
    def COLUMNS(self) -> Sequence[str]: ...  # noqa: N802
    def lines(self, found: Any, /) -> Iterable[str]: ...
    def records(self, found: Any, /) -> list[dict[str, Any]]: ...
    def as_json(self, found: Any, /) -> dict[str, Any]: ...


def note(text: str) -> None:
    """One line on stderr."""
    print(f"imgclust: {text}", file=sys.stderr)


def cluster_line(cluster: Cluster) -> str:
    """A cluster's number, training images, stability where it is known, and name."""
    known = "" if cluster.stability is None else f"  stability {cluster.stability:.2f}"
    marked = known + (" (low)" if cluster.is_unsteady else "      " if known else "")
    name = f"{cluster.name or ''}{' (class)' if cluster.is_class else ''}"
    return f"  {cluster.id:4d}  {cluster.size:6d} images{marked}  {name}".rstrip()


def group_lines(model: ClusterModel) -> Iterator[str]:
    """The groups with their clusters, the largest first; nothing for a model without groups."""
    members: dict[int, list[Cluster]] = {group.id: [] for group in model.groups}
    for cluster in model.clusters:
        if cluster.group is not None:
            members[cluster.group].append(cluster)
    sizes = {number: sum(cluster.size for cluster in clusters) for number, clusters in members.items()}
    if model.groups:
        yield "groups:"
    for number in sorted(sizes, key=lambda number: (-sizes[number], number)):
        inside = sorted(members[number], key=lambda c: (-c.size, c.id))
        names = ", ".join(f"{c.id} {c.name or ''}".strip() for c in inside) or "empty"
        yield f"  {number:4d}  {sizes[number]:6d} images  {model.group_name(number) or ''}: {names}"


def print_figures(figures: Mapping[str, Any], indent: str = "") -> None:
    """Figures as `name = value`, tables indented below their name; lists are left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}:")
            print_figures(value, indent + "  ")
        elif not isinstance(value, list | tuple):
            print(f"{indent}{name} = {round(value, 4) if isinstance(value, float) else value}")


def is_page(arguments: argparse.Namespace) -> bool:
    """Whether `-o` names a page to look at."""
    named = arguments.output is not None and arguments.format is None
    return named and arguments.output.suffix.lower() == PAGE_ENDING


def result_format(arguments: argparse.Namespace) -> str:
    """table, csv or json: `--format`, or what the ending of `-o` says.

    Raises:
        ImgclustError: neither says it.
    """
    if arguments.format is not None or arguments.output is None:
        return arguments.format or "table"
    ending = arguments.output.suffix.lower()
    if ending not in RESULT_ENDINGS:
        known = ", ".join(RESULT_ENDINGS)
        raise ImgclustError(f"{arguments.output.name!a} must end in one of {known}, or give --format")
    return RESULT_ENDINGS[ending]


def write_result(found: Any, writer: ResultWriter, format: str, path: Path | None) -> None:
    """To a file, which is named then, or to stdout.

    Raises:
        ImgclustError: the file cannot be written.
    """
    import orjson

    from imgclust.support.tables import as_csv, write_whole

    if format == "csv":
        content = as_csv(writer.records(found), writer.COLUMNS)
    elif format == "json":
        content = orjson.dumps(writer.as_json(found), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    else:
        content = "".join(f"{line}\n" for line in writer.lines(found)).encode()
    if path is None:
        sys.stdout.write(content.decode())
    else:
        write_whole(path, content)
        print(f"written to {path}")
