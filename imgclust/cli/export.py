"""`imgclust export`: predictions for labelling tools, and distributions over clusters for recommenders."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli.options import IMAGES, Commands, add_command, add_encoder_options, add_reading_options
from imgclust.cli.output import note
from imgclust.cli.predicting import Failures, predicted
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.tagging.rows import Row

FIFTYONE = "fiftyone"  # writes no file
ENDINGS = {"label-studio": ".json", "coco": ".json", "csv": ".csv", "distributions": ".parquet"}


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "export",
        run,
        "write clusters for labelling tools, or distributions over clusters for recommenders",
        "  imgclust export model/ photos/ --to label-studio -o tasks.json\n"
        "  imgclust export model/ embeddings/ --to coco -o photos.json\n"
        "  imgclust export model/ --to csv -o labels.csv\n"
        "  imgclust export model/ embeddings/ --to distributions --by user -o users.parquet",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument(
        "images", nargs="*", metavar="IMAGES",
        help=f"{IMAGES}; an embeddings folder; or - for lines on stdin (default: the training images)",
    )  # fmt: skip
    command.add_argument(
        "--to", choices=(*ENDINGS, FIFTYONE), required=True,
        help="label-studio (tasks and the labelling interface), coco, csv, distributions, or fiftyone (a "
        "dataset, where FiftyOne is installed)",
    )  # fmt: skip
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE",
        help="output file: " + ", ".join(f"{ending} for {form}" for form, ending in ENDINGS.items())
        + "; for fiftyone, the name of the dataset",
    )  # fmt: skip
    command.add_argument(
        "--prefix",
        metavar="TEXT",
        help=("text to put before the ids of images, to make URLs or file names of them"),
    )
    command.add_argument(
        "--by",
        metavar="ATTRIBUTE",
        help=("one distribution for all images with the same value of this attribute, such as the user"),
    )
    add_encoder_options(command, precision=None)
    add_reading_options(command)


def run(arguments: argparse.Namespace) -> int:
    from imgclust.model.model import ClusterModel

    _check(arguments)
    model = ClusterModel.load(arguments.model)
    failures = Failures()
    rows = _rows(arguments, model, failures)
    written = _write(arguments, model, rows)
    failures.print_summary()
    if not written:
        raise ImgclustError("no picture was exported")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what does not fit together before any work is done."""
    ending, labelling = ENDINGS.get(arguments.to), arguments.to != "distributions"
    if ending is not None and arguments.output.suffix.lower() != ending:
        raise ImgclustError(f"{arguments.to} is written as {ending}, got {arguments.output.name!a}")
    if arguments.by is not None and labelling:
        raise ImgclustError("--by makes groups for --to distributions; labelling takes single images")
    if arguments.by is not None and not arguments.images:
        raise ImgclustError("--by needs attributes, which a model does not have: give the embeddings folder")
    if arguments.prefix is not None and (not labelling or ending is None):
        raise ImgclustError("--prefix is for label-studio, coco and csv")


def _rows(arguments: argparse.Namespace, model: ClusterModel, failures: Failures) -> Iterator[Row]:
    from imgclust.exporting import rows as exported

    if arguments.images:
        found = predicted(arguments, model, failures, Counter(), exported.rows_of_folder)
        return exported.with_places(found)
    named = int((model.map_rows >= 0).sum())
    if named < len(model.arrays["embeddings"]):
        note(f"the model names {named} of its training images: give the embeddings folder to export all")
    return exported.rows_of_training(model)


def _write(arguments: argparse.Namespace, model: ClusterModel, rows: Iterator[Row]) -> int:
    """The number of images."""
    from imgclust.exporting import distributions, labelling
    from imgclust.exporting.fiftyone_dataset import write_fiftyone

    if arguments.to == FIFTYONE:
        count = write_fiftyone(rows, str(arguments.output), labelling.labels_of(model))
        print(f"{count} images in the dataset {str(arguments.output)!a} of FiftyOne")
        return count
    if arguments.to == "distributions":
        done = distributions.write_distributions(rows, arguments.output, model, arguments.by)
        if done.without:
            note(f"{done.without} images do not have {arguments.by!a:.200}, and are in no group")
        of = f" of {done.images} images" if arguments.by is not None else ""
        what = "groups" if arguments.by is not None else "images"
        print(f"distributions of {done.keys} {what}{of} in {arguments.output}")
        return done.images
    write = {
        "label-studio": labelling.write_label_studio,
        "coco": labelling.write_coco,
        "csv": labelling.write_csv,
    }[arguments.to]
    count = write(rows, arguments.output, labelling.labels_of(model), arguments.prefix)
    print(f"{count} images in {arguments.output}")
    if arguments.to == "label-studio":
        print(f"the labelling interface for them in {arguments.output.with_suffix('.xml')}")
    return count
