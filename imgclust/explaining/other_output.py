"""What is in "other", for people and programs: lines, a row for each image, JSON, and a page of pictures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imgclust.comparing.words import named, percent
from imgclust.explaining.other import Other, OtherImage
from imgclust.report.pictures import Picture, PictureGroup, write_pictures
from imgclust.support.tables import utf8
from imgclust.tagging.table import plain

COLUMNS = ("id", "kind", "nearest", "name", "score", "similarity", "assigned", "group")
MEANING = {
    "novel": "unlike anything else that the model was fitted on",
    "between": "between clusters, or at the edge of one",
    "thin": "in a sparse region: few images are similar",
}
SHOWN = 12  # clusters and groups, in lines
PICTURES = 24  # of each part of the page
LIKE = 3  # ids that stand for a group, in lines


def lines(found: Other) -> Iterator[str]:
    """For a terminal."""
    other = len(found.images)
    assigned = Counter(image.kind for image in found.images if image.assigned)
    yield f"{other:,} of {found.total:,} images are in other ({percent(other / max(found.total, 1))})"
    if assigned:
        yield f"the model assigns {assigned.total():,} of them to their best candidate"
    for kind, count in found.kinds().items():
        moved = f" ({assigned[kind]:,} assigned)" if assigned[kind] else ""
        yield f"  {kind:8} {count:6,}  {percent(count / max(other, 1)):>7}  {MEANING[kind]}{moved}"
    nearest = found.nearest()
    if nearest:
        yield "between clusters, by the best candidate"
        for number, count in nearest[:SHOWN]:
            yield f"  {count:6,}  {named(number, found.names)}"
        if len(nearest) > SHOWN:
            yield f"  and {len(nearest) - SHOWN} more clusters"
    yield from _group_lines(found)


def _group_lines(found: Other) -> Iterator[str]:
    if not found.groups:
        yield "no group of images stands out inside other"
        return
    yield "candidate clusters inside other"
    for group in found.groups[:SHOWN]:
        like = ", ".join(plain(found.images[i].id) for i in group.members[:LIKE])
        near = "" if group.nearest is None else f"  near {named(group.nearest, found.names)}"
        yield f"  {group.number:3}  {len(group.members):6,} images{near}  like {like}"
    if len(found.groups) > SHOWN:
        yield f"  and {len(found.groups) - SHOWN} more"


def records(found: Other) -> list[dict[str, Any]]:
    """A row with `COLUMNS` for each image."""
    return [
        {
            "id": image.id, "kind": image.kind, "nearest": image.nearest,
            "name": None if image.nearest is None else found.names.get(image.nearest),
            "score": round(image.score, 6), "similarity": round(image.similarity, 6),
            "assigned": image.assigned, "group": image.group,
        }
        for image in found.images
    ]  # fmt: skip


def as_json(found: Other) -> dict[str, Any]:
    """All of it, as JSON's types."""
    return {
        "images": found.total,
        "other": len(found.images),
        "kinds": found.kinds(),
        "nearest": [
            {"cluster": number, "name": found.names.get(number), "images": count}
            for number, count in found.nearest()
        ],
        "groups": [
            {**dataclasses.asdict(group), "members": [utf8(found.images[i].id) for i in group.members]}
            for group in found.groups
        ],
        "rows": [{**record, "id": utf8(record["id"])} for record in records(found)],
    }


def write_page(path: Path, found: Other, title: str, thumbnail: Callable[[OtherImage], bytes | None]) -> None:
    """The same with pictures, as one offline page.

    Args:
        thumbnail: an image's WebP; None where it cannot be had.

    Raises:
        ImgclustError: it cannot be written.
    """
    other = len(found.images)
    about = f"{other:,} of {found.total:,} images ({percent(other / max(found.total, 1))}). " + " ".join(
        f"{percent(count / max(other, 1))} {MEANING[kind]}." for kind, count in found.kinds().items()
    )
    write_pictures(path, title, about, _picture_groups(found, thumbnail))


def _picture_groups(found: Other, thumbnail: Callable[[OtherImage], bytes | None]) -> Iterator[PictureGroup]:
    def shown(heading: str, about: str, images: Sequence[OtherImage]) -> PictureGroup:
        some = images[:PICTURES]
        more = f"; {len(some)} of {len(images):,} are shown" if len(some) < len(images) else ""
        pictures = [Picture(image.id, _caption(image, found), thumbnail(image)) for image in some]
        return PictureGroup(f"{heading} · {len(images):,}", about + more, pictures)

    for group in found.groups:
        near = "" if group.nearest is None else f", near {named(group.nearest, found.names)}"
        images = [found.images[i] for i in group.members]
        yield shown(f"Candidate cluster {group.number}{near}", "images that lie together", images)
    for number, _ in found.nearest():
        images = [i for i in found.images if i.kind == "between" and i.nearest == number]
        images.sort(key=lambda image: -image.score)
        yield shown(
            f"Between clusters, nearest {named(number, found.names)}", "the highest score first", images
        )
    for kind, about in (("thin", "few images are similar"), ("novel", "the most unlike the others first")):
        images = [image for image in found.images if image.kind == kind]
        if images:
            images.sort(key=lambda image: image.similarity)
            yield shown({"thin": "In a sparse region", "novel": "Novel"}[kind], about, images)


def _caption(image: OtherImage, found: Other) -> str:
    if image.nearest is None:
        return "no candidate"
    mark = "assigned to" if image.assigned else "perhaps"
    return f"{mark} {named(image.nearest, found.names)} {image.score:.2f}"
