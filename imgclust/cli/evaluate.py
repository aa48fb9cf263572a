"""`imgclust evaluate`: how well a model's clusters agree with given labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from imgclust.cli.options import Commands, add_command, add_result_options
from imgclust.cli.output import note, result_format, write_result


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "evaluate",
        run,
        "measure a model's clusters against labels: AMI, purity, and the labels in each cluster",
        "  imgclust evaluate model/ --labels labels.csv\n"
        "  imgclust evaluate model/ --labels labels.csv --on embeddings/ -o confusion.csv\n"
        "  imgclust evaluate model/ --labels labels.csv --format json",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument(
        "--labels", type=Path, required=True, metavar="FILE", help="CSV with the columns id and label"
    )
    command.add_argument(
        "--on", type=Path, metavar="EMBEDDINGS",
        help="use the images of this folder instead of the training images",
    )  # fmt: skip
    add_result_options(command)


def run(arguments: argparse.Namespace) -> int:
    from imgclust.comparing import evaluation_output
    from imgclust.comparing.evaluate import evaluate, read_labels
    from imgclust.model.model import ClusterModel
    from imgclust.support.progress import bar_for

    format = result_format(arguments)
    labels = read_labels(arguments.labels)
    model = ClusterModel.load(arguments.model)
    with bar_for("evaluate", None if arguments.on is None else lambda: len(labels)) as bar:
        found = evaluate(model, labels, arguments.on, bar.advance)
    if found.unknown:
        where = (
            "are not in the folder"
            if arguments.on
            else "are not training images of the model; for other images give --on EMBEDDINGS"
        )
        note(f"{found.unknown} of {len(labels)} labelled ids {where}")
    write_result(found, evaluation_output, format, arguments.output)
    return 0
