"""`imgclust tune`: a search for the parameters that meet an aim."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli.fit_parameters import save
from imgclust.cli.options import Commands, add_command, positive
from imgclust.cli.other_target import add_labels, labels_of

if TYPE_CHECKING:
    from imgclust.training.parameters import Parameters
    from imgclust.tuning.tune import TuningTrial

DEFAULT = ("stability", "other")
BEST, TABLE, PAGE = "best.toml", "trials.csv", "trade-offs.html"


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "tune",
        run,
        "search for the parameters of a fit that best meet your aims; continues earlier searches "
        "(needs imgclust[tune])",
        "  imgclust tune embeddings/ -o tuning/ --aim clusters=10..30 --aim other --aim stability\n"
        "  imgclust tune embeddings/ -o tuning/ --aim ami --labels labels.csv --trials 200\n"
        "  imgclust fit embeddings/ -o model/ --parameters tuning/best.toml",
    )
    command.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help="made by `imgclust embed`")
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FOLDER",
        help=f"folder for the search and its results: {BEST}, {TABLE} and {PAGE}",
    )  # fmt: skip
    command.add_argument(
        "--aim", action="append", metavar="AIM",
        help="what to search for: clusters=10..30, other (as little as possible), other=10%% (no more), "
        "stability, validity, or ami with --labels; repeat it for several aims of equal weight "
        f"({' and '.join(DEFAULT)})",
    )  # fmt: skip
    command.add_argument(
        "--trials", type=positive, default=60, metavar="N",
        help=("stop after this many trials, including those of earlier searches in the folder "
              "(%(default)s)"),
    )  # fmt: skip
    command.add_argument(
        "--umaps", type=positive, default=6, metavar="N",
        help="how many UMAP settings to try; each takes as long as a fit, each trial a fraction of "
             "that (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--max-train", type=positive, default=200_000, metavar="N",
        help="maximum number of images to search with, and to read; with the same number, `fit` trains on "
             "the same images (%(default)s)",
    )  # fmt: skip
    add_labels(command, "labels, for the aim ami, or only to show the AMI")
    command.add_argument(
        "--seed", type=int, default=0, help=("random seed of the split and the search (%(default)s)")
    )
    command.add_argument("--quiet", action="store_true", help="do not show progress")


def run(arguments: argparse.Namespace) -> int:
    from imgclust.errors import FitError
    from imgclust.support.tables import write_records
    from imgclust.training.sample import read_sample
    from imgclust.tuning import tradeoffs
    from imgclust.tuning.aims import Aim
    from imgclust.tuning.tune import TEST_FRACTION, Tuning, training_rows

    aims = [Aim.parse(text) for text in arguments.aim or DEFAULT]
    if any(aim.name == "ami" for aim in aims) and arguments.labels is None:
        raise FitError("the aim ami needs labels: give --labels FILE, or --labels folders")
    embeddings = read_sample(arguments.embeddings, arguments.max_train, TEST_FRACTION).embeddings
    labels = labels_of(arguments.labels, embeddings.ids)
    rows = training_rows(embeddings, seed=arguments.seed, max_train=arguments.max_train)
    tuning = Tuning(
        arguments.output,
        embeddings.vectors[rows],
        None if labels is None else [labels[row] for row in rows],
        aims,
        umaps=arguments.umaps,
        seed=arguments.seed,
    )

    def tell(trial: TuningTrial, count: int) -> None:
        found = trial.figures
        print(
            f"trial {count} of {arguments.trials}: score {trial.score:.3f}, {found.clusters} clusters, "
            f"other {found.other:.1%}, stability {found.stability:.2f}",
            file=sys.stderr,
        )

    def announce(p: Parameters) -> None:
        print(
            f"UMAP with {p.n_neighbors} neighbours, {p.n_components} dimensions, min_dist {p.min_dist:g} …",
            file=sys.stderr,
        )

    told = (None, None) if arguments.quiet else (tell, announce)
    trials = tuning.run(arguments.trials, *told)
    write_records(tradeoffs.records(trials, aims), arguments.output / TABLE, tradeoffs.COLUMNS)
    tradeoffs.write_page(arguments.output / PAGE, trials, aims)
    save(trials[0].parameters, arguments.output / BEST)
    for line in tradeoffs.lines(trials, aims):
        print(line)
    print(
        f"the plot is {arguments.output / PAGE}; to use the first: fit --parameters {arguments.output / BEST}"
    )
    return 0
