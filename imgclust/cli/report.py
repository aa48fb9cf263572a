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
        (
            "write an HTML page that works offline, with a map, the clusters and their pictures, and the "
            "figures"
        ),
        "  imgclust report model/ -o report.html\n"
        "  imgclust report model/ -o report.html --images embeddings/ --title 'My pictures'\n"
        "  imgclust report model/ -o report.html --images embeddings/ --tags tags.parquet --budget 40",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="REPORT.html", help="output file"
    )
    command.add_argument(
        "--tags", type=Path, metavar="FILE",
        help="predictions or tags (CSV, JSON lines, Parquet, or a folder of parts): adds attributes "
             "to filter by, and the drift; an embeddings folder works as --images",
    )  # fmt: skip
    command.add_argument(
        "--images", type=Path, metavar="EMBEDDINGS",
        help="the embeddings that the model was fitted on: adds a picture of every image whose file "
             "still exists, and the attributes; without it, only typical pictures",
    )  # fmt: skip
    command.add_argument(
        "--budget", type=megabytes, default=megabytes("15"), metavar="MB",
        help=("size limit for pictures in the page (15); typical pictures come first, the others are "
              "made small enough to fit"),
    )  # fmt: skip
    command.add_argument("--title", help="title of the page")


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
