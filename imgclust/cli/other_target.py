"""`fit --other-target`: how much may stay in "other", and what people see of what that costs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgclust.cli.output import note
from imgclust.errors import ImgclustError

OFF, FOLDERS = "off", "folders"


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--other-target", type=share, default=None, metavar="SHARE",
        help="put images between clusters into their best candidate, so that at most this share of "
             "held-out images stays in other, such as 10%%; the accuracy is printed, for other "
             "targets too (off)",
    )  # fmt: skip
    add_labels(command, "labels to measure --other-target with, instead of two more fits")


def add_labels(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument(
        "--labels", metavar="FILE",
        help=f"{what}: a CSV with the columns id and label, or the word folders, which takes the first "
        "folder of an image's id as its label",
    )  # fmt: skip


def share(text: str) -> float | None:
    """10% or 0.1 → 0.1; off → None."""
    if text == OFF:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a share like 10% or 0.1, or off, got {text!a:.40}")
    return value


def labels_of(wanted: str | None, ids: Sequence[str]) -> list[str | None] | None:
    """Of each image its label, or None; None: no labels are wanted.

    Raises:
        ImgclustError: the file cannot be read, or no image has a label.
    """
    if wanted is None:
        return None
    if wanted == FOLDERS:
        from imgclust.naming.given import folder_of

        found = [folder_of(image) for image in ids]
    else:
        from imgclust.comparing.evaluate import read_labels

        known = read_labels(Path(wanted))
        found = [known.get(image) for image in ids]
    if not any(label is not None for label in found):
        example = f", like {ids[0]!a:.80}" if ids else ""
        raise ImgclustError(
            f"--labels {wanted!a:.80}: none of the {len(ids)} images{example}, has a label in it"
        )
    return found


def print_offers(figures: Mapping[str, Any]) -> None:
    """What each target assigns and how right it is; the one that was asked for is marked."""
    found = figures["other_target"]
    by = "with their label" if found["judged_by"] == "labels" else "with fits on other samples"
    inside = found["right_in_clusters"]
    print(f"assigned from between clusters, on held-out images; right means in agreement {by}")
    print("   target  stays in other  from score  assigned  of these right")
    for offer in found["offers"]:
        mark = "→" if offer["target"] == found["target"] else " "
        print(f" {mark} {offer['target']:6.0%}  {offer['other']:14.1%}  {_offered(offer)}")
    if inside is not None:
        print(f"   of the images that are in clusters without a target, {inside:.0%} are right")
    chosen = next(offer for offer in found["offers"] if offer["target"] == found["target"])
    if chosen["other"] > chosen["target"]:
        note(
            f'{chosen["other"]:.1%} stay in "other", more than the target: novel images are never assigned, '
            "and some have no candidate"
        )


def _offered(offer: Mapping[str, Any]) -> str:
    if offer["score"] is None:
        return f"{'–':>10}  {0:8.1%}"
    right = "not judged" if offer["right"] is None else f"{offer['right']:.0%} of {offer['judged']}"
    return f"{offer['score']:10.4f}  {offer['assigned']:8.1%}  {right:>14}"
