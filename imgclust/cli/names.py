"""`imgclust names`: name the clusters of a model, by hand or by something that knows names."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli import loading
from imgclust.cli.options import Commands, add_command, add_naming_options, add_output_option, positive
from imgclust.cli.output import cluster_line

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

DESCRIPTION = """\
Name the clusters of a model. Names are recorded as edits; `imgclust edit MODEL/ undo` takes them back. Names
that people gave, with --set or `imgclust edit`, are kept. A cluster for which no name is found gets none."""


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "names",
        run,
        "name the clusters of a model, for example with your own words",
        "  imgclust names model/ --set 3=food --set 7=cars\n"
        "  imgclust names model/ --by folders\n"
        "  imgclust names model/ --by hierarchy,folders -o renamed/\n"
        "  imgclust names model/ --vocabulary words.txt\n"
        "  imgclust names model/ --by attribute --attribute category --images embeddings/\n"
        "  imgclust names model/ --by endpoint --endpoint http://localhost:8000/v1 --endpoint-model llava",
    )
    command.description = DESCRIPTION
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    add_output_option(command)
    command.add_argument(
        "--set", type=_assignment, action="append", default=[], metavar="N=NAME", dest="given",
        help='name cluster N by hand; "N=" removes its name',
    )  # fmt: skip
    command.add_argument(
        "--by", metavar="NAMERS",
        help="where names come from: hierarchy (default for mini), phrases (default for other "
             "encoders, and with --vocabulary), folders, attribute, endpoint, or a plugin; separate "
             "several with commas, and the first that has a name is used",
    )  # fmt: skip
    add_naming_options(command)
    command.add_argument(
        "--images",
        type=Path,
        metavar="EMBEDDINGS",
        help=("the embeddings folder with the attributes of the images"),
    )
    command.add_argument("--attribute", metavar="NAME", help="the attribute to use, for --by attribute")
    command.add_argument(
        "--endpoint", metavar="URL",
        help="an OpenAI-compatible API that accepts pictures: typical pictures of each cluster are "
             "sent there; put its key into IMGCLUST_ENDPOINT_KEY",
    )  # fmt: skip
    command.add_argument("--endpoint-model", metavar="NAME", help="the endpoint's model to use")
    command.add_argument(
        "--max-requests", type=positive, default=100, metavar="N",
        help=("maximum number of requests to the endpoint, one per cluster, the largest first "
              "(%(default)s)"),
    )  # fmt: skip


def _assignment(text: str) -> tuple[int, str]:
    number, equals, name = text.partition("=")
    if not equals or not number.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"must be like 3=food, got {text!a:.80}")
    return int(number), name


def run(arguments: argparse.Namespace) -> int:
    from imgclust.model.model import ClusterModel

    model = ClusterModel.load(arguments.model)
    edited = model.edit().rename(dict(arguments.given)) if arguments.given else model
    by = arguments.by or ("" if arguments.given else _default(model, arguments))
    if by:
        edited = _named(edited, by, arguments)
    if edited is not model or arguments.output:
        edited.save(arguments.output or arguments.model)
    for cluster in edited.clusters:
        print(cluster_line(cluster))
    return 0


def _default(model: ClusterModel, arguments: argparse.Namespace) -> str:
    """As `fit` names clusters of the model's encoder; by phrases where there are some."""
    from imgclust.naming.hierarchy import by_hierarchy

    return "hierarchy" if arguments.vocabulary is None and by_hierarchy(model.encoder) else "phrases"


def _named(model: ClusterModel, by: str, arguments: argparse.Namespace) -> ClusterModel:
    """The model with the names that the namers have, if any of them is another than before."""
    from imgclust.naming.namers import WHO, NamingOptions, load_namer, proposed

    words = loading.words(arguments.vocabulary)
    options = NamingOptions(
        vocabulary=lambda identity: loading.encoder(identity, weights=arguments.weights).vocabulary(words),
        weights=arguments.weights,
        images=arguments.images,
        attribute=arguments.attribute,
        endpoint=arguments.endpoint,
        endpoint_model=arguments.endpoint_model,
        max_requests=arguments.max_requests,
    )
    namers = [load_namer(name.strip(), options) for name in by.split(",")]
    found = proposed(model, namers)
    changed = {number: name for number, name in found.items() if name != model.name(number)}
    if not changed:
        return model
    return model.edit(who=f"{WHO} {by} ({_user()})").rename(changed)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"
