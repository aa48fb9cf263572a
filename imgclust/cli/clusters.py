"""`imgclust clusters`: what a model's clusters are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli.options import Commands, add_command
from imgclust.cli.output import cluster_line, group_lines

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "clusters",
        run,
        "list the clusters and groups of a model: number, training images, stability, name",
        "  imgclust clusters model/\n  imgclust clusters model/ --json",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument("--json", action="store_true", help="JSON lines, with the ids of typical images")


def run(arguments: argparse.Namespace) -> int:
    from imgclust.model.model import ClusterModel

    model = ClusterModel.load(arguments.model)
    if arguments.json:
        _print_json(model)
    else:
        print_clusters(model)
    return 0


def print_clusters(model: ClusterModel) -> None:
    """The model in a line, and its clusters, the largest first."""
    images, other = len(model.labels_), int((model.labels_ < 0).sum())
    print(
        f"model {model.version}: {images} training images, {images - other} in {len(model.clusters)} "
        f"clusters, {other} in no cluster"
    )
    for cluster in sorted(model.clusters, key=lambda c: (-c.size, c.id)):
        print(cluster_line(cluster))
    for line in group_lines(model):
        print(line)


def _print_json(model: ClusterModel) -> None:
    import orjson

    for cluster in model.clusters:
        record = {
            "cluster": cluster.id,
            "name": cluster.name,
            "images": cluster.size,
            "stability": cluster.stability,
            "group": cluster.group,
            "typical": list(cluster.exemplars),
            **({"class": True} if cluster.is_class else {}),
        }
        print(orjson.dumps(record).decode())
