"""`imgclust names`: name the clusters of a model again."""

from __future__ import annotations

import argparse
from pathlib import Path

from imgclust.cli import loading
from imgclust.cli.options import Commands, add_command, add_naming_options
from imgclust.cli.output import cluster_line
from imgclust.errors import EncoderError


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "names",
        run,
        "name the clusters of a model again, for example with your own words",
        "  imgclust names model/ --vocabulary words.txt\n"
        "  imgclust names model/ --vocabulary words.txt -o renamed/",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument("-o", "--output", type=Path, metavar="MODEL", help="write here instead of in place")
    add_naming_options(command)


def run(arguments: argparse.Namespace) -> int:
    from imgclust.model.gallery import centres
    from imgclust.model.model import ClusterModel
    from imgclust.model.naming import name_clusters

    model = ClusterModel.load(arguments.model)
    if model.encoder is None:
        raise EncoderError(f"the model in {str(arguments.model)!a} does not say which encoder it takes")
    vocabulary = loading.encoder(model.encoder, weights=arguments.weights).vocabulary(
        loading.words(arguments.vocabulary)
    )
    found = name_clusters(centres(model.arrays["embeddings"], model.arrays["labels"]), *vocabulary)
    renamed = model.renamed(found)
    renamed.save(arguments.output or arguments.model)
    for cluster in renamed.clusters:
        print(cluster_line(cluster))
    return 0
