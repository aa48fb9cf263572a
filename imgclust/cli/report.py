"""`imgclust report`: a model → one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from imgclust.cli.options import Commands, add_command


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "report",
        run,
        "write one HTML page that works offline: a map, the clusters with their pictures, the figures",
        "  imgclust report model/ -o report.html\n"
        "  imgclust report model/ -o report.html --tags embeddings/ --title 'My pictures'",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="REPORT.html", help="file to write"
    )
    command.add_argument(
        "--tags", type=Path, metavar="FILE",
        help="predictions or tags (CSV, JSON lines, Parquet): attributes to filter by, and drift against "
        "held-out images; or an embeddings folder, for the attributes",
    )  # fmt: skip
    command.add_argument("--title", help="heading of the page")


def run(arguments: argparse.Namespace) -> int:
    from imgclust.report.page import write_report

    path = write_report(arguments.model, arguments.output, tags=arguments.tags, title=arguments.title)
    print(f"report in {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
