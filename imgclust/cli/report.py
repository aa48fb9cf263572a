"""`imgclust report`: a model → one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from imgclust.cli.options import Commands, add_command, megabytes


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "report",
        run,
        "write one HTML page that works offline: a map, the clusters with their pictures, the figures",
        "  imgclust report model/ -o report.html\n"
        "  imgclust report model/ -o report.html --images embeddings/ --title 'My pictures'\n"
        "  imgclust report model/ -o report.html --images embeddings/ --tags tags.parquet --budget 40",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="REPORT.html", help="file to write"
    )
    command.add_argument(
        "--tags", type=Path, metavar="FILE",
        help="predictions or tags (CSV, JSON lines, Parquet, folder of parts): attributes to filter by, and "
        "drift against held-out images; an embeddings folder is taken as --images",
    )  # fmt: skip
    command.add_argument(
        "--images", type=Path, metavar="EMBEDDINGS",
        help="the folder that the model was fitted on: a picture of every image whose file is still there, "
        "and the attributes; without it, typical pictures alone",
    )  # fmt: skip
    command.add_argument(
        "--budget", type=megabytes, default=megabytes("15"), metavar="MB",
        help="of the page, for pictures (15): typical ones first, the others as large as all have room",
    )  # fmt: skip
    command.add_argument("--title", help="heading of the page")


def run(arguments: argparse.Namespace) -> int:
    from imgclust.report.page import write_report

    path = write_report(
        arguments.model,
        arguments.output,
        tags=arguments.tags,
        images=arguments.images,
        title=arguments.title,
        budget=arguments.budget,
    )
    print(
        f"report in {path} ({path.stat().st_size / 1e6:.1f} MB; "
        f"pictures may take {arguments.budget / 1e6:g} MB: --budget)"
    )
    return 0
