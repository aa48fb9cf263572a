"""`imgclust edit`: rename, merge, split and drop clusters by hand; undo; the log of all that."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli.options import Commands, add_command, add_saving_options, positive
from imgclust.cli.output import cluster_line
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.model.editor import Editor
    from imgclust.model.model import ClusterModel

DESCRIPTION = """\
Change the clusters of a model by hand. The edited model replaces MODEL, or is written to -o NEW. The folder
keeps a log of the edits, with author and time. Numbers keep their meaning: a merged cluster keeps the first
number and the others are retired; the parts of a split cluster get new numbers."""


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "edit",
        run,
        "rename, merge, split or drop clusters by hand",
        '  imgclust edit model/ rename 3 "food"\n'
        "  imgclust edit model/ merge 9 10\n"
        "  imgclust edit model/ split 4\n"
        "  imgclust edit model/ split 4 --into 3 -o next/\n"
        "  imgclust edit model/ drop 7\n"
        "  imgclust edit model/ undo\n"
        "  imgclust edit model/ log",
    )
    command.description = DESCRIPTION
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    edits = command.add_subparsers(dest="edit", metavar="EDIT", required=True)
    rename = _add_edit(edits, "rename", "give a cluster another name")
    rename.add_argument("cluster", type=int, metavar="CLUSTER")
    rename.add_argument("name", metavar="NAME", help='the new name; "" removes the name')
    group = _add_edit(edits, "rename-group", "give a group of clusters another name")
    group.add_argument("group", type=int, metavar="GROUP")
    group.add_argument("name", metavar="NAME", help='the new name; "" removes the name')
    merge = _add_edit(edits, "merge", "merge clusters into the first one")
    merge.add_argument("cluster", type=int, metavar="CLUSTER", help="is kept, with its name")
    merge.add_argument("others", type=int, nargs="+", metavar="OTHER", help="is retired")
    split = _add_edit(edits, "split", "split a cluster; the parts get new numbers")
    split.add_argument("cluster", type=int, metavar="CLUSTER", help="is retired")
    split.add_argument(
        "--into", type=positive, metavar="N", help="number of parts (default: as many as are found)"
    )
    drop = _add_edit(edits, "drop", 'retire clusters; their images become "other"')
    drop.add_argument("clusters", type=int, nargs="+", metavar="CLUSTER")
    for one in (rename, merge, split, drop):
        one.add_argument(
            "--golden", action="store_true",
            help="first make typical images of these clusters golden (see `imgclust golden`)",
        )  # fmt: skip
    _add_edit(edits, "undo", "undo the last edit that is still in effect")
    edits.add_parser("log", help="list the edits: when, who, what", description="List the edits.")


def _add_edit(edits: Commands, name: str, help: str) -> argparse.ArgumentParser:
    edit = edits.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    add_saving_options(edit)
    return edit


def run(arguments: argparse.Namespace) -> int:
    from imgclust.editing.log import described
    from imgclust.model.model import ClusterModel

    model = ClusterModel.load(arguments.model)
    if arguments.edit == "log":
        return _print_log(model)
    kept = model
    if arguments.edit != "undo" and arguments.golden:
        kept = model.edit(who=arguments.who).keep_typical(*_named(arguments))
    edited = _edited(kept.edit(who=arguments.who), arguments)
    target = arguments.output or arguments.model
    edited.save(target)
    print(f"{described(edited.edits)[-1]}: model {model.version} → {edited.version} in {target}")
    for cluster in edited.clusters:
        if cluster not in model.clusters:
            print(cluster_line(cluster))
    return 0


def _named(arguments: argparse.Namespace) -> list[int]:
    """The clusters that an edit names."""
    if arguments.edit == "drop":
        return list(arguments.clusters)
    return [arguments.cluster, *(arguments.others if arguments.edit == "merge" else ())]


def _edited(editor: Editor, arguments: argparse.Namespace) -> ClusterModel:
    match arguments.edit:
        case "rename":
            return editor.rename({arguments.cluster: arguments.name})
        case "rename-group":
            return editor.rename_group({arguments.group: arguments.name})
        case "merge":
            return editor.merge(arguments.cluster, *arguments.others)
        case "split":
            return editor.split(arguments.cluster, arguments.into)
        case "drop":
            return editor.drop(*arguments.clusters)
        case "undo":
            return editor.undo()
        case other:
            raise ImgclustError(f"unknown edit {other!r}")


def _print_log(model: ClusterModel) -> int:
    from imgclust.editing.log import described

    for edit, line in zip(model.edits, described(model.edits), strict=True):
        print(f"{edit.when}  {edit.who}  on {edit.on}: {line}{' (carried over)' if edit.carried else ''}")
    if not model.edits:
        print(f"model {model.version} has no edits")
    return 0
