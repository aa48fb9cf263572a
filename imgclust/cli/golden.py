"""`imgclust golden`: images with the cluster or class that they must, or must not, get."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli.options import Commands, add_command, add_device_options, add_saving_options
from imgclust.cli.output import note
from imgclust.cli.pictures import embedded
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.model.editor import Editor
    from imgclust.model.model import ClusterModel
    from imgclust.types import Floats

DESCRIPTION = """\
Golden images are pictures with the cluster or class that every model of this taxonomy must (or must not) give
them. `check` lists those that the model gets wrong, and exits with 1 if there are any. `fit --previous` keeps
them, and `imgclust-worker models set` refuses a model that gets one wrong. They follow clusters that are
merged, split or dropped later."""


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "golden",
        run,
        (
            "manage golden images, which must (or must not) be in a given cluster or class: add, list, "
            "remove, check"
        ),
        "  imgclust golden model/ add burger.jpg --cluster 3\n"
        '  imgclust golden model/ add receipts/0001.jpg --class "receipts"\n'
        "  imgclust golden model/ add --id uploads/17.jpg --not 3\n"
        "  imgclust golden model/ list\n"
        "  imgclust golden model/ check\n"
        "  imgclust golden model/ remove uploads/17.jpg",
    )
    command.description = DESCRIPTION
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    adding = actions.add_parser("add", help="add an image", description=DESCRIPTION)
    which = adding.add_mutually_exclusive_group(required=True)
    which.add_argument("image", nargs="?", metavar="IMAGE", help="a picture file")
    which.add_argument("--id", metavar="ID", help="the id of an image in the model, or in --on")
    adding.add_argument(
        "--on", type=Path, metavar="EMBEDDINGS", help="the embeddings folder with the image of --id"
    )
    where = adding.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--cluster", type=int, metavar="N", help=("the image must be in this cluster; -1 is other")
    )
    where.add_argument("--class", dest="class_", metavar="NAME", help="the image must be in this class")
    where.add_argument(
        "--not", dest="never", type=int, metavar="N", help=("the image must not be in this cluster")
    )
    add_device_options(adding)
    add_saving_options(adding)
    actions.add_parser("list", help="list the golden images", description="List the golden images.")
    removing = actions.add_parser("remove", help="remove an image", description="Remove a golden image.")
    removing.add_argument("image", metavar="ID", help="its id, as `list` shows it")
    add_saving_options(removing)
    actions.add_parser(
        "check",
        help="list those that the model gets wrong",
        description=("List the golden images that the model gets wrong."),
    )


def run(arguments: argparse.Namespace) -> int:
    from imgclust.comparing.words import golden_text, names_of
    from imgclust.editing.log import describe
    from imgclust.model.model import ClusterModel

    model = ClusterModel.load(arguments.model)
    if arguments.action == "list":
        return _print_list(model)
    if arguments.action == "check":
        return _check(model)
    editor = model.edit(who=arguments.who)
    changed = (
        _added(editor, arguments) if arguments.action == "add" else editor.remove_golden(arguments.image)
    )
    target = arguments.output or arguments.model
    changed.save(target)
    print(f"{describe(changed.edits[-1].change)}: model {model.version} → {changed.version} in {target}")
    for one in changed.check_golden():
        note(golden_text(one, names_of(changed)))
    return 0


def _added(editor: Editor, arguments: argparse.Namespace) -> ClusterModel:
    image, embedding = _image(editor.model, arguments)
    if arguments.class_ is not None:
        return editor.add_golden(image, embedding, [editor.class_number(arguments.class_)])
    if arguments.never is not None:
        return editor.add_golden(image, embedding, [arguments.never], never=True)
    return editor.add_golden(image, embedding, [arguments.cluster])


def _image(model: ClusterModel, arguments: argparse.Namespace) -> tuple[str, Floats]:
    from imgclust.comparing.labelled_images import image_of

    if arguments.id is None:
        found = embedded([arguments.image], model, arguments)
        ids, rows = found.ids, found.vectors
        if len(ids) != 1:
            raise ImgclustError(f"{arguments.image!a:.200} is {len(ids)} pictures: add them one by one")
        return ids[0], rows[0]
    row = image_of(model, arguments.on, arguments.id)
    if row is None:
        where = "in the folder" if arguments.on else "of the model (others need --on EMBEDDINGS)"
        raise ImgclustError(f"{arguments.id!a:.200} is not {where}")
    return arguments.id, row


def _print_list(model: ClusterModel) -> int:
    from imgclust.comparing.words import names_of, wanted_place
    from imgclust.editing.golden_check import golden_images
    from imgclust.tagging.table import plain

    golden = golden_images(model.edits)
    for one in golden:
        print(f"  {plain(one.image)}  {wanted_place(one, names_of(model))}")
    if not golden:
        print(f"model {model.version} has no golden images")
    return 0


def _check(model: ClusterModel) -> int:
    from imgclust.comparing.words import golden_text, names_of
    from imgclust.editing.golden_check import golden_images

    count, found = len(golden_images(model.edits)), model.check_golden()
    for one in found:
        print(f"  {golden_text(one, names_of(model))}")
    print(f"{count - len(found)} of {count} golden images are where they must be")
    return 1 if found else 0
