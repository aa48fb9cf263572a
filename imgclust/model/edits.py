"""Hand edits in a model folder: `edits.json` has the log, and the clusters that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgclust.editing.log import MAX_EDITS, Edit
from imgclust.editing.mapping import EditMap
from imgclust.editing.parsing import clean_name
from imgclust.editing.rules import classes_of
from imgclust.errors import ModelError
from imgclust.model import folder as layout
from imgclust.model.folder import Array
from imgclust.model.parts import Cluster, Group


def edits_file(log: Sequence[Edit], clusters: Sequence[Cluster]) -> dict[str, bytes]:
    """The file by its name; nothing for a model without edits.

    What the edits make of the clusters is stored too: to find typical images, all embeddings are read.
    """
    if not log:
        return {}
    content = {
        "edits": [edit.to_dict() for edit in log],
        "clusters": [cluster.to_dict() for cluster in clusters],
    }
    return {layout.EDITS: layout.canonical(content)}


def read_clusters(listed: Sequence[Mapping[str, Any]]) -> tuple[Cluster, ...]:
    """Clusters as JSON has them."""
    return tuple(map(Cluster.from_dict, listed))


def read_groups(
    listed: Sequence[Mapping[str, Any]], used: object, clusters: Sequence[Cluster]
) -> tuple[Group, ...]:
    """Groups as JSON has them, and the ones that clusters name.

    Raises:
        ModelError: the numbers are wrong, or a cluster is in a group that there is not.
    """
    groups = tuple(map(Group.from_dict, listed))
    numbers = [group.id for group in groups]
    layout.check_numbers(numbers, used, len(numbers), of="group", used_as="groups_used")
    for cluster in clusters:
        if cluster.group is not None and cluster.group not in numbers:
            raise ModelError(
                f"{layout.CLUSTERS}: cluster {cluster.id} is in group {cluster.group}, which is not listed"
            )
    return groups


def read_edits(
    folder: Path, manifest: Mapping[str, Any], fitted: tuple[Cluster, ...], arrays: Mapping[str, Array]
) -> tuple[tuple[Cluster, ...], tuple[Edit, ...]]:
    """The clusters that people see, and the log.

    Raises:
        ModelError: the log is damaged, or its clusters are not the ones that it makes.
    """
    if layout.EDITS not in manifest["files"]:
        return fitted, ()
    content = layout.read_json(folder, layout.EDITS)
    if len(content["edits"]) > MAX_EDITS:
        raise ModelError(f"{layout.EDITS} has {len(content['edits'])} edits, at most {MAX_EDITS} are read")
    log = tuple(Edit.from_dict(edit) for edit in content["edits"])
    clusters = read_clusters(content["clusters"])
    made = EditMap.of([cluster.id for cluster in fitted], log, arrays["points"].shape[1])
    classes = [one.number for one in classes_of(log)]
    listed = [cluster.id for cluster in clusters if not cluster.is_class]
    if listed != made.numbers[made.alive].tolist() or classes != [c.id for c in clusters if c.is_class]:
        raise ModelError(
            f"{layout.EDITS} lists other clusters than its edits make: copy the model folder again"
        )
    return clusters, log


def by_number(
    names: Mapping[int, str | None] | Sequence[str | None], numbers: Sequence[int]
) -> dict[int, str | None]:
    """Names by the numbers of clusters; a sequence has one for each, in their order.

    Raises:
        ModelError: no such cluster, another number of names, or a name that is not one line.
    """
    if isinstance(names, str):
        raise ModelError(
            f"names are a mapping or a list with one for each cluster, got the text {names[:60]!a}"
        )
    if not isinstance(names, Mapping):
        if len(names) != len(numbers):
            raise ModelError(
                f"{len(names)} names for {len(numbers)} clusters: give one for each, or name some by their "
                'number, like {3: "food"}'
            )
        names = dict(zip(numbers, names, strict=True))
    for number, name in names.items():
        if number not in numbers:
            listed = ", ".join(map(str, sorted(numbers)[:20]))
            raise ModelError(f"there is no cluster {number!r} to name {name!a:.60}: there are {listed}")
    return {int(number): clean_name(name) for number, name in names.items()}
