"""`imgclust class`: classes that are decided before the clusters; add, list, remove."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli import loading
from imgclust.cli.options import Commands, add_command, add_device_options, add_saving_options
from imgclust.cli.pictures import Pictures, embedded, thumbnails
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.editing.classes import AddClass, ClassRule
    from imgclust.model.model import ClusterModel

DESCRIPTION = """\
Define your own classes. They are decided before the clusters, by similarity to examples or to a phrase. The
threshold is the lowest one that reaches the precision that you ask for. Without --labels, the images of the
model (or of --on) are assumed not to show the class, and each example is compared with the other examples.
With --labels FILE.csv (columns id and label), images labelled with the class's name show it, and images with
another label do not."""


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "class",
        run,
        "add, list and remove your own classes, with the precision that you want",
        '  imgclust class model/ add "receipts" --examples receipts/\n'
        '  imgclust class model/ add "receipts" --examples receipts/ --on embeddings/ --labels labels.csv\n'
        '  imgclust class model/ add "receipts" --phrase "a photo of a receipt" --labels labels.csv\n'
        "  imgclust class model/ list\n"
        '  imgclust class model/ remove "receipts"',
    )
    command.description = DESCRIPTION
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    adding = actions.add_parser("add", help="add a class", description=DESCRIPTION)
    adding.add_argument("name", metavar="NAME", help="its name; it gets a new number")
    made = adding.add_mutually_exclusive_group(required=True)
    made.add_argument(
        "--examples", nargs="+", metavar="IMAGES",
        help="example pictures: folders, files, or embeddings folders",
    )  # fmt: skip
    made.add_argument(
        "--phrase", metavar="TEXT", help=("a description, for encoders that can read text; needs --labels")
    )
    adding.add_argument(
        "--precision", dest="wanted", type=float, default=0.95, metavar="SHARE",
        help="share of the images in the class that must really show it: 0.5 to 1 (%(default)s)",
    )  # fmt: skip
    adding.add_argument(
        "--on", type=Path, metavar="EMBEDDINGS",
        help="use the images of this folder to set the threshold, instead of the training images",
    )  # fmt: skip
    adding.add_argument(
        "--labels", type=Path, metavar="FILE", help=("CSV with the columns id and label, for these images")
    )
    add_device_options(adding)
    add_saving_options(adding)
    actions.add_parser("list", help="list the classes", description="List the classes.")
    removing = actions.add_parser("remove", help="retire a class", description="Retire a class.")
    removing.add_argument("name", metavar="NAME", help="its name or number")
    add_saving_options(removing)


def run(arguments: argparse.Namespace) -> int:
    from imgclust.editing.log import describe
    from imgclust.model.model import ClusterModel

    model = ClusterModel.load(arguments.model)
    if arguments.action == "list":
        return _print_classes(model)
    editor = model.edit(who=arguments.who)
    if arguments.action == "remove":
        changed = editor.remove_class(arguments.name)
    else:
        examples = None if arguments.phrase is not None else embedded(arguments.examples, model, arguments)
        pictures = thumbnails(examples) if examples else {}
        changed = editor.add_class(arguments.name, _rule(model, examples, arguments), pictures)
    target = arguments.output or arguments.model
    changed.save(target)
    print(f"{describe(changed.edits[-1].change)}: model {model.version} → {changed.version} in {target}")
    if arguments.action == "add":
        _print_classes(changed, changed.clusters[-1].id)
    return 0


def _rule(model: ClusterModel, examples: Pictures | None, arguments: argparse.Namespace) -> ClassRule:
    from imgclust.comparing.evaluate import read_labels
    from imgclust.comparing.labelled_images import labelled_images, other_images
    from imgclust.editing.thresholds import from_examples, from_labels

    if arguments.phrase is not None and arguments.labels is None:
        raise ImgclustError(
            "a phrase alone does not tell how similar an image must be: give labelled images (--labels "
            "FILE.csv, with --on EMBEDDINGS if they are not the model's), or define the class by --examples"
        )
    labels = None if arguments.labels is None else read_labels(arguments.labels)
    if examples is not None:
        vectors = examples.vectors
    else:
        vectors = loading.encoder_of(model, arguments).embed_texts([arguments.phrase])
    if labels is None:
        ids, others = other_images(model, arguments.on)
        return from_examples(vectors, others, arguments.wanted, ids)
    shows, others = labelled_images(model, arguments.on, labels, arguments.name)
    return from_labels(vectors, shows, others, arguments.wanted, arguments.phrase)


def _print_classes(model: ClusterModel, only: int | None = None) -> int:
    from imgclust.editing.rules import classes_of
    from imgclust.tagging.table import plain

    sizes = {cluster.id: (cluster.name, cluster.size) for cluster in model.clusters if cluster.is_class}
    for one in classes_of(model.edits):
        if only not in (None, one.number):
            continue
        (name, size), rule, found = sizes[one.number], one.rule, one.rule.measured
        of = f"the phrase {rule.phrase!a}" if rule.phrase else f"{len(rule.vectors)} examples"
        print(f"  {one.number:4d}  {plain(name or '')}: cosine {rule.threshold:.3f} or more to {of}")
        print(
            f"        precision {found.precision:.3f} (wanted {found.wanted:g}), recall {found.recall:.3f}, "
            f"{_judged_on(one)}; {size:,} training images"
        )
    if not sizes:
        print(f"model {model.version} has no classes")
    return 0


def _judged_on(one: AddClass) -> str:
    found = one.rule.measured
    if found.labelled:
        return f"on {found.positives} labelled images of it and {found.others} others"
    share = found.positives / (found.positives + found.others)
    return (
        f"assuming that none of {found.others:,} images shows it, and that it is as frequent as the "
        f"{found.positives} examples beside them ({share:.1%})"
    )
