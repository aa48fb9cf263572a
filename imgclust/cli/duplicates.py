"""`imgclust duplicates`: which images of an embeddings folder are one picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclust.cli.options import Commands, add_command
from imgclust.cli.output import note
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.training.stored_duplicates import StoredDuplicates

PAGE = ".html"
COLUMNS = ("group", "id", "source", "kept", "exact", "cosine", "bits")


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "duplicates",
        run,
        "show which images are copies of the same picture: equal files and near duplicates",
        "  imgclust duplicates embeddings/\n"
        "  imgclust duplicates embeddings/ -o duplicates.html\n"
        "  imgclust duplicates embeddings/ -o duplicates.csv --near 0.95",
    )
    command.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help="made by `imgclust embed`")
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help=("output file: .csv, .jsonl or .parquet, or .html for a page with pictures"),
    )
    command.add_argument(
        "--near", type=float, default=0.98, metavar="COSINE",
        help=("near duplicates have at least this cosine similarity, and matching perceptual hashes "
              "(%(default)s); 2: only equal files count, and no embedding is read"),
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from imgclust.embedding.store_columns import count_rows
    from imgclust.support.progress import bar_for
    from imgclust.support.tables import check_ending, write_records
    from imgclust.training.stored_duplicates import find_stored_duplicates

    if arguments.output is not None:
        check_ending(arguments.output, [PAGE])
    if not arguments.near > 0:
        raise ImgclustError(f"--near is a cosine above 0, got {arguments.near}")
    total, done = count_rows(arguments.embeddings), 0
    with bar_for("duplicates", lambda: total) as bar:

        def advance(share: float) -> None:
            nonlocal done
            bar.advance(round(share * total) - done)
            done = round(share * total)

        stored = find_stored_duplicates(arguments.embeddings, arguments.near, advance)
    found = stored.found
    if unknown := int((stored.hashes == 0).sum()):
        note(
            f"{unknown} images have no perceptual hash, as in older folders: they are compared by "
            "what the encoder saw, a crop; embed them into another folder to compare whole pictures"
        )
    groups = _groups(stored)
    if arguments.output is None:
        _print(groups)
    elif arguments.output.suffix.lower() == PAGE:
        _write_page(groups, arguments.output)
    else:
        write_records([row for group in groups for row in group], arguments.output, COLUMNS)
    exact = int(found.exact.sum())
    print(
        f"{len(found)} of {total} images are copies, in {len(groups)} groups: {exact} equal files, "
        f"{len(found) - exact} near duplicates"
    )
    return 0


def _groups(stored: StoredDuplicates) -> list[list[dict[str, Any]]]:
    """Each kept image with its copies, the largest group first; rows have `COLUMNS`."""
    from imgclust.images.perceptual import UNKNOWN, differing

    found, hashes, images = stored.found, stored.hashes, stored.images
    bits = differing(hashes[found.duplicate], hashes[found.original])
    members: dict[int, list[dict[str, Any]]] = {}
    for i, (row, original) in enumerate(zip(found.duplicate.tolist(), found.original.tolist(), strict=True)):
        known = UNKNOWN not in (hashes[row], hashes[original])
        members.setdefault(original, []).append(
            {
                "id": images[row][0],
                "source": images[row][1],
                "kept": False,
                "exact": bool(found.exact[i]),
                "cosine": round(min(1.0, float(found.cosine[i])), 4),
                "bits": int(bits[i]) if known else None,
            }
        )
    groups: list[list[dict[str, Any]]] = []
    for original, copies in sorted(members.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        kept = {"id": images[original][0], "source": images[original][1], "kept": True}
        first = {**kept, "exact": False, "cosine": 1.0, "bits": 0}
        groups.append([{"group": len(groups) + 1, **row} for row in (first, *copies)])
    return groups


def _print(groups: list[list[dict[str, Any]]]) -> None:
    for group in groups:
        print(f"{group[0]['id']}")
        for row in group[1:]:
            print(f"  {_how(row)}  {row['id']}")


def _how(row: dict[str, Any]) -> str:
    if row["kept"]:
        return "kept"
    if row["exact"]:
        return "equal file"
    return f"cosine {row['cosine']:.4f}" + ("" if row["bits"] is None else f", {row['bits']} bits")


def _write_page(groups: list[list[dict[str, Any]]], path: Path) -> None:
    from imgclust.model.gallery import thumbnail_of
    from imgclust.report.pictures import Picture, PictureGroup, write_pictures

    shown = (
        PictureGroup(
            f"Group {group[0]['group']}",
            f"{len(group)} images",
            [Picture(row["id"], _how(row), thumbnail_of(row["source"])) for row in group],
        )
        for group in groups
    )
    copies = sum(len(group) - 1 for group in groups)
    about = f"{copies} copies in {len(groups)} groups; the first of each group is the one that a fit keeps"
    write_pictures(path, "Duplicates", about, shown)
