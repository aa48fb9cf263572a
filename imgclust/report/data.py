"""What a report shows: read once from a model and a file of predictions, before any page is made.

The page never sees a model: `ReportData` is all that it knows, so both can change on their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imgclust.editing.log import Edit
from imgclust.model.reasons import kinds_of, predicted_by_others
from imgclust.model.taxonomy import Continuation
from imgclust.naming.given import folder_of
from imgclust.predictor.batches import predict_batches
from imgclust.report.annotations import Note, read_notes
from imgclust.report.drift import TagsDrift, read_drift
from imgclust.report.selection import selections, wanted_order
from imgclust.report.tiles import embedded_from, fitting, tiles
from imgclust.types import OTHER, Floats, Prediction

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.model.parts import Cluster

MAX_FACETS = 4
MAX_FACET_VALUES = 60
TYPICAL = 24
BUDGET = 15_000_000  # bytes of the page that pictures may take


@dataclasses.dataclass(frozen=True, slots=True)
class ReportCluster:
    """A cluster as the page shows it; `exemplars` are image ids, the most typical first.

    Attributes:
        stability: 0..1, None where it is not known; `unsteady`: it is so low that people should know.
        group: the number of the group that it is in.
        is_class: people defined it; see `imgclust.editing.classes`.
    """

    id: int
    name: str | None
    size: int
    exemplars: tuple[str, ...]
    stability: float | None = None
    unsteady: bool = False
    group: int | None = None
    is_class: bool = False

    @classmethod
    def of(cls, cluster: Cluster) -> ReportCluster:
        """A model's cluster."""
        return cls(
            cluster.id, cluster.name, cluster.size, cluster.exemplars, cluster.stability, cluster.is_unsteady,
            cluster.group, cluster.is_class,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page.

    Attributes:
        version, taxonomy, created: as in the model's manifest.
        images: training images, those in no cluster too.
        encoder: the encoder's identity as a dictionary.
        figures: of the training, in any nesting of dictionaries; lists are not shown.
        parameters: title → parameters: UMAP's, HDBSCAN's.
        libraries: library → version.
        clusters: without "other".
        ids, x, y, labels: the map, row by row; float (n,) coordinates, int (n,) labels.
        thumbnails: image id → WebP bytes, of typical pictures.
        tiles: image id → WebP bytes, smaller ones, of any other images.
        notes: image id → its prediction and attributes.
        drift: of the tags that were given, against the model's held-out images.
        continuation: what became of the clusters of the model before; None: it starts its taxonomy.
        edits: the log of hand edits.
        budget: bytes of the page that pictures may take, at most.
        groups: number → name, of the groups above the clusters.
    """

    version: str
    taxonomy: str
    created: str
    images: int
    encoder: Mapping[str, Any]
    figures: Mapping[str, Any]
    parameters: Mapping[str, Mapping[str, Any]]
    libraries: Mapping[str, str]
    clusters: tuple[ReportCluster, ...]
    ids: list[str]
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int32]
    thumbnails: Mapping[str, bytes]
    tiles: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Note] = dataclasses.field(default_factory=dict)
    drift: TagsDrift | None = None
    continuation: Continuation | None = None
    edits: tuple[Edit, ...] = ()
    groups: Mapping[int, str | None] = dataclasses.field(default_factory=dict)
    budget: int = BUDGET

    @property
    def picture_bytes(self) -> int:
        """The budget without base64, which makes four bytes of three."""
        return self.budget * 3 // 4


# ---- facets: what the pictures can be filtered by -------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Facet:
    """One filter: a few values, and which of them each image has (`len(values)`: none)."""

    name: str
    values: list[str]
    codes: npt.NDArray[np.uint16]


def _facet(name: str, of_image: list[str | None]) -> Facet | None:
    values = sorted({v for v in of_image if v}, key=lambda v: (v.casefold(), v))
    if not 2 <= len(values) <= MAX_FACET_VALUES:
        return None
    code = {value: i for i, value in enumerate(values)}
    codes = np.array([code.get(v or "", len(values)) for v in of_image], np.uint16)
    return Facet(name, values, codes)


def facets(ids: list[str], notes: Mapping[str, Note]) -> list[Facet]:
    """Up to four filters with 2 to 60 values each: attributes first, else the folders that images lie in."""
    nothing = Note()
    of_image = [notes.get(i, nothing).attributes for i in ids]
    names = sorted({name for attributes in of_image for name in attributes})
    names.sort(key=lambda name: name != "category")  # the one that people mean by default comes first
    found = [_facet(name, [a.get(name) for a in of_image]) for name in names]
    usable = [f for f in found if f][:MAX_FACETS]
    by_folder = None if usable else _facet("folder", [folder_of(i) for i in ids])
    return [by_folder] if by_folder else usable


# ---- the model ------------------------------------------------------------------------------------------


def from_model(
    model: ClusterModel, *, images: Path | None = None, tags: Path | None = None, budget: int = BUDGET
) -> ReportData:
    """What a report shows of a model; arguments and errors as `imgclust.report.page.write_report`."""
    ids = [str(i) for i in model.map.column("id").to_pylist()]
    labels = np.asarray(model.map.column("cluster"), np.int32)
    notes = _training_notes(model, ids, labels)
    notes |= _other_notes(model, ids, labels)
    small: dict[str, bytes] = {}
    if images:
        notes = _merged(notes, _predicted(model, images, set(ids) - notes.keys()))
        notes = _merged(notes, read_notes(images, set(ids)))
        order = wanted_order(ids, labels, selections(ids, labels, notes))
        missing = list(dict.fromkeys(i for i in order if i not in model.thumbnails))
        room = budget * 3 // 4 - sum(map(len, model.thumbnails.values()))
        side, count = fitting(room, len(missing))
        shown = set(missing[:count])
        small = dict(tiles(embedded_from(images, shown), shown, side))
    drift = None
    if tags:
        typical = {image for cluster in model.clusters for image in cluster.exemplars}
        notes = _merged(notes, read_notes(tags, typical.union(ids)))
        drift = read_drift(model, tags)
    return ReportData(
        version=model.version,
        taxonomy=model.taxonomy,
        created=model.created,
        images=len(model.labels_),
        encoder=model.encoder.to_dict() if model.encoder else {},
        figures={name: value for name, value in model.figures.items() if name != "taxonomy"},
        parameters={_TITLES.get(k, k): v for k, v in model.parameters.items()},
        libraries=model.libraries,
        clusters=tuple(map(ReportCluster.of, model.clusters)),
        ids=ids,
        x=np.asarray(model.map.column("x"), np.float64),
        y=np.asarray(model.map.column("y"), np.float64),
        labels=labels,
        thumbnails=model.thumbnails,
        tiles=small,
        notes=notes,
        drift=drift,
        edits=model.edits,
        budget=budget,
        groups={group.id: model.group_name(group.id) for group in model.groups},
        continuation=Continuation.from_dict(model.figures["taxonomy"])
        if "taxonomy" in model.figures
        else None,
    )


_TITLES = {"umap": "UMAP", "hdbscan": "HDBSCAN", "novelty": "Novelty", "assignment": "Assignment"}


def _merged(known: Mapping[str, Note], given: Mapping[str, Note]) -> dict[str, Note]:
    """Given notes win, in part too: attributes alone leave the prediction as it was."""
    merged = {**known, **given}
    for image in known.keys() & given.keys():
        before, now = known[image], given[image]
        attributes = {**before.attributes, **now.attributes}
        prediction = before if now.probability is None else now
        merged[image] = dataclasses.replace(
            prediction, attributes=attributes, reason=now.reason or before.reason
        )
    return merged


def _training_notes(model: ClusterModel, ids: list[str], labels: npt.NDArray[np.int32]) -> dict[str, Note]:
    """The probabilities of the fit, where it is known which training images the map shows."""
    rows = model.map_rows
    places = np.flatnonzero(rows >= 0)
    if len(rows) != len(ids) or not np.array_equal(labels[places], model.labels_[rows[places]]):
        return {}
    known = model.arrays["probabilities"][rows[places]]
    return {ids[place]: Note(p) for place, p in zip(places.tolist(), known.tolist(), strict=True)}


def _other_notes(model: ClusterModel, ids: list[str], labels: npt.NDArray[np.int32]) -> dict[str, Note]:
    """What the model says of the training images in no cluster, which the fit left without a word."""
    if not (labels == OTHER).any():
        return {}
    rows = model.map_rows
    places = np.flatnonzero((rows >= 0) & (labels == OTHER))
    if not len(places):
        return {}
    raw = predicted_by_others(model, rows[places])
    kinds = kinds_of(model, raw)
    found = model.shown(raw, model.arrays["embeddings"][rows[places]])
    return {
        ids[place]: dataclasses.replace(_note(found, i), probability=0.0, reason=kinds[i])
        for i, place in enumerate(places.tolist())
    }


def _note(found: Prediction, row: int) -> Note:
    likely = zip(found.candidates[row].tolist(), found.scores[row].tolist(), strict=True)
    return Note(
        probability=float(found.probabilities[row]),
        novel=bool(found.novel[row]),
        assigned=bool(found.assigned[row]),
        candidates=tuple((c, s) for c, s in likely if c != OTHER),
    )


def _reasons(model: ClusterModel, vectors: Floats, found: Prediction) -> dict[int, str]:
    """Row → why it is in no cluster."""
    left = np.flatnonzero(found.labels == OTHER)
    if not len(left):
        return {}
    kinds = kinds_of(model, predict_batches(model.predictor, vectors[left]))
    return dict(zip(left.tolist(), kinds, strict=True))


def _predicted(model: ClusterModel, folder: Path, wanted: Set[str]) -> dict[str, Note]:
    """What the model says of images that the fit has no prediction of, from their embeddings."""
    from imgclust.embedding.store import vectors_of
    from imgclust.embedding.store_columns import some_columns

    notes: dict[str, Note] = {}
    for batch, identity in some_columns(folder, ["id", "embedding"], wanted):
        vectors = vectors_of(batch.column("embedding"), identity.dim)
        found = model.predict(vectors, encoder=identity)
        reasons = _reasons(model, vectors, found)
        notes |= {
            image: dataclasses.replace(_note(found, i), reason=reasons.get(i))
            for i, image in enumerate(batch.column("id").to_pylist())
        }
    return notes
