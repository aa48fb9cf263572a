"""The frozen model: what a fit found, in a folder that loads in a moment and cannot run code."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from imgclust.editing.golden_check import BrokenGolden, broken, golden_images
from imgclust.editing.log import Edit, RenameGroup, effective, numbers_given
from imgclust.editing.mapping import EditMap
from imgclust.editing.parsing import from_half
from imgclust.editing.rules import class_rules
from imgclust.errors import EmbeddingsError, ModelError
from imgclust.model import folder as layout
from imgclust.model import showing
from imgclust.model.arrays import read_arrays, read_map
from imgclust.model.cuml_pair import plain_hdbscan, plain_umap
from imgclust.model.drift import Reference
from imgclust.model.edits import by_number, edits_file, read_clusters, read_edits, read_groups
from imgclust.model.folder import Array
from imgclust.model.freeze import basic_figures, check_whole, freeze, library_versions
from imgclust.model.gallery import show
from imgclust.model.map_labels import of_training, relabelled, total_images, training_rows
from imgclust.model.parts import UNIT, Cluster, Group, check_identity
from imgclust.predictor import novelty as novelties
from imgclust.predictor.assignment import TABLE, threshold_of
from imgclust.predictor.batches import predict_batches
from imgclust.predictor.class_rules import ClassRules
from imgclust.support.machine import now
from imgclust.types import OTHER, EncoderIdentity, Ints, Prediction, Predictor

if TYPE_CHECKING:
    import pyarrow as pa

    from imgclust.model.editor import Editor

PARAMETERS = ("umap", "hdbscan", "novelty")


@dataclasses.dataclass(frozen=True)
class ClusterModel:
    """A frozen encoder space, UMAP and HDBSCAN: embeddings → clusters, always the same for the same numbers.

    Made by `imgclust.training.fit.fit`, by `from_fitted` or by `load`; never changed afterwards.

    Attributes:
        encoder: whose embeddings it takes; None: not recorded.
        parameters: "umap", "hdbscan" and "novelty" with all that prediction needs; "assignment", where images
            between clusters are assigned.
        clusters: without "other". Those of a model that starts a taxonomy are 0..k-1; those of one that
            continues it may have any numbers, in any order (`arrays` count them 0..k-1, in this order).
        figures: of the training.
        arrays: see `imgclust.model.folder.SPECS`.
        map_data: `map`, as the Parquet file that is stored.
        thumbnails: image id → WebP, at most 128 px.
        libraries: library → version that the fit used.
        created: RFC 3339.
        continues: the taxonomy whose cluster numbers it uses; None: it starts its own.
        used: how many numbers its taxonomy has used so far, those of clusters that are gone included; None:
            no others than its own.
        reference: what it said of held-out images, as `imgclust.model.drift.Reference.to_dict` gives it, for
            noticing drift; None: not kept. It counts fitted clusters.
        edits: the log of hand edits, the oldest first; see `edit`.
        groups: above the clusters, as they were fitted, where it has two levels; `Cluster.group` names them
            by number, and `group_name` knows what they are called.
        groups_used: as `used`, of the numbers of groups.
        fitted: the clusters as they were fitted, in the order of `arrays`, where edits made others of them;
            None: `clusters`.
    """

    encoder: EncoderIdentity | None
    parameters: Mapping[str, Mapping[str, Any]]
    clusters: tuple[Cluster, ...]
    figures: Mapping[str, Any]
    arrays: Mapping[str, Array]
    map_data: bytes = dataclasses.field(repr=False)
    thumbnails: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    libraries: Mapping[str, str] = dataclasses.field(default_factory=dict)
    created: str = dataclasses.field(default_factory=lambda: now())
    continues: str | None = None
    used: int | None = None
    reference: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)
    edits: tuple[Edit, ...] = ()
    fitted: tuple[Cluster, ...] | None = None
    groups: tuple[Group, ...] = ()
    groups_used: int | None = None
    known_version: str | None = dataclasses.field(default=None, repr=False)  # as read from a checked folder

    @property
    def labels_(self) -> Ints:
        """int32 (n,): the clusters of the training images, in the order of `arrays["embeddings"]`."""
        labels: Ints = self.arrays["labels"]
        if self.edit_map is None:
            return labels if self._numbers is None else self._numbers[labels]
        return self._with_classes(self.edit_map.labels(labels, self.arrays["points"]))

    def _with_classes(self, labels: Ints) -> Ints:
        """Labels of the training images by cluster → those of a class have its number."""
        classes, rules = self.training_classes, self.class_rules
        if classes is None or rules is None:
            return labels
        return np.where(classes >= 0, rules.numbers[classes], labels)

    @property
    def fitted_clusters(self) -> tuple[Cluster, ...]:
        """The clusters before any hand edit, in the order of `arrays`."""
        return self.clusters if self.fitted is None else self.fitted

    @cached_property
    def edit_map(self) -> EditMap | None:
        """What the edits make of fitted clusters; None: there are no edits."""
        if not self.edits:
            return None
        return EditMap.of([c.id for c in self.fitted_clusters], self.edits, self.arrays["points"].shape[1])

    @cached_property
    def class_rules(self) -> ClassRules | None:
        """What decides, before the clusters, which images belong to a class; None: there are no classes."""
        return class_rules(self.edits, self.dim)

    @cached_property
    def training_classes(self) -> npt.NDArray[np.int64] | None:
        """int64 (n,): the class of each training image, as `class_rules` counts them; −1: none."""
        return None if self.class_rules is None else self.class_rules.decide(self.arrays["embeddings"])

    @cached_property
    def version(self) -> str:
        """12 hex digits that name the model's content: equal content, equal version."""
        return self.known_version or str(self._freeze()[0]["version"])

    @cached_property
    def map(self) -> pa.Table:
        """pyarrow table (id, x, y, cluster) of at most 20,000 images, for pictures of the whole."""
        table = read_map(self.map_data)
        if self.edit_map is None:
            return table
        edited = relabelled(table, self.map_rows, self._fitted_numbers, self.edit_map, self.arrays["points"])
        return edited if self.class_rules is None else of_training(edited, self.map_rows, self.labels_)

    @cached_property
    def map_rows(self) -> Array:
        """int64, for each row of the map: its training image; −1: a held-out image, or not known."""
        labels, fitted = self.arrays["labels"], np.append(self._fitted_numbers, np.int32(OTHER))
        clusters = np.asarray(read_map(self.map_data).column("cluster"), np.int32)
        seed = self.parameters["umap"]["random_state"]
        return training_rows(clusters, fitted[labels], total_images(len(labels), self.figures), seed)

    @property
    def taxonomy(self) -> str:
        """What the cluster numbers mean: the version of the first model that used them so."""
        return self.continues or self.version

    @property
    def numbers(self) -> Ints:
        """int32 (k,): the numbers of `clusters`."""
        return np.array([cluster.id for cluster in self.clusters], np.int32)

    @property
    def next_number(self) -> int:
        """The first number that no cluster of this taxonomy has had so far."""
        numbers = [cluster.id for cluster in self.fitted_clusters] + numbers_given(self.edits)
        return max(self.used or 0, 1 + max(numbers, default=-1))

    @property
    def next_group(self) -> int:
        """The first number that no group of this taxonomy has had so far."""
        return max(self.groups_used or 0, 1 + max((group.id for group in self.groups), default=-1))

    @cached_property
    def level(self) -> Ints:
        """int32 (k + 1,): the place in `groups` of each fitted cluster, -1 in none, then -1 for "other"."""
        place = {group.id: i for i, group in enumerate(self.groups)}
        found = [place.get(c.group, OTHER) if c.group is not None else OTHER for c in self.fitted_clusters]
        return np.array([*found, OTHER], np.int32)

    def group_name(self, group: int | None) -> str | None:
        """A group's name; None for none, and for a group without a name."""
        return None if group is None else self._group_names.get(int(group))

    @cached_property
    def _group_names(self) -> dict[int, str | None]:
        names = {group.id: group.name for group in self.groups}
        for edit in effective(self.edits):
            if isinstance(edit.change, RenameGroup):
                names |= edit.change.names
        return names

    @property
    def _fitted_numbers(self) -> Ints:
        return np.array([cluster.id for cluster in self.fitted_clusters], np.int32)

    @cached_property
    def _numbers(self) -> Ints | None:
        """int32 (k + 1,): a cluster's number in the arrays → its own, "other" being last; None: the same."""
        numbers = self._fitted_numbers
        return None if layout.in_order(numbers) else np.append(numbers, np.int32(OTHER))

    @property
    def dim(self) -> int:
        """Numbers per embedding."""
        return int(self.arrays["embeddings"].shape[1])

    def name(self, cluster: int) -> str | None:
        """A cluster's name; None for "other" and for a cluster without a name."""
        return self._names.get(int(cluster))

    @cached_property
    def _names(self) -> dict[int, str | None]:
        return {cluster.id: cluster.name for cluster in self.clusters}

    def predict(
        self,
        embeddings: Array,
        *,
        encoder: EncoderIdentity | None = None,
        normalize: bool = False,
        batch: int = 256,
        progress: Callable[[int], None] | None = None,
    ) -> Prediction:
        """Predict clusters; each row's result depends on that row alone.

        Args:
            embeddings: (n, dim) of any float type, unit-norm rows; they are rounded to float16 values, as
                they are stored and were fitted.
            encoder: who made them; checked against `self.encoder` where both are known.
            normalize: divide rows by their length, instead of refusing those that are not of length 1.
            batch: rows at a time; of no influence on the result.
            progress: called with the number of rows that are done.

        Raises:
            EmbeddingsError: another encoder's embeddings, another width, not finite, or not of unit length.
        """
        self.check_encoder(encoder)
        rows = _array(embeddings)
        if normalize and rows.ndim == 2 and rows.dtype.kind in "fiu":
            with np.errstate(invalid="ignore", divide="ignore"):
                rows = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        self._check_rows(rows)
        return self.shown(predict_batches(self.predictor, rows, batch=batch, progress=progress), rows)

    def shown(self, found: Prediction, rows: Array) -> Prediction:
        """A prediction of `predictor`, in the clusters and classes that people see.

        Args:
            rows: float (n, dim), that were predicted.
        """
        if self.edit_map is None:
            return found if self._numbers is None else found.numbered(self._numbers)
        edited = self.edit_map.apply(found)
        return edited if self.class_rules is None else self.class_rules.apply(edited, rows)

    def check_golden(self) -> list[BrokenGolden]:
        """The golden images that the model breaks: images that are not where people said they must be."""
        golden = golden_images(self.edits)
        if not golden:
            return []
        return broken(golden, self.predict(from_half([one.vector for one in golden])).labels.tolist())

    def check_encoder(self, encoder: EncoderIdentity | None) -> None:
        """Refuse embeddings of another encoder.

        Raises:
            EmbeddingsError: naming both encoders.
        """
        if encoder is not None and self.encoder is not None:
            remedy = f"embed the images again with --encoder {self.encoder.name}"
            encoder.check_same(self.encoder, "this model was fitted on", remedy)

    def _check_rows(self, rows: Array) -> None:
        if rows.ndim != 2 or rows.dtype.kind != "f":
            raise EmbeddingsError(f"embeddings must be floats (n, {self.dim}), are {rows.dtype} {rows.shape}")
        if rows.shape[1] != self.dim:
            raise EmbeddingsError(f"embeddings must be (n, {self.dim}) for this model, are {rows.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64, casting="same_kind"))
        wrong = np.flatnonzero(~(np.abs(lengths - 1) < UNIT))
        if len(wrong):
            raise EmbeddingsError(
                f"embeddings must be finite and of length 1: row {wrong[0]} has length "
                f"{lengths[wrong[0]]:.4g}; divide each row by its length"
            )

    @cached_property
    def predictor(self) -> Predictor:
        """What predicts, in the numbers of `arrays`; built on first use."""
        from imgclust.predictor.predictor import FrozenPredictor

        return FrozenPredictor(self.arrays, self.parameters)

    def predicting_on(self, device: str) -> ClusterModel:
        """The same model, whose predictions are made on a GPU: where that gives the processor's bits.

        Args:
            device: "cpu", "cuda" or "cuda:N".

        Raises:
            ModelError: the device gives other bits, or is not there.
        """
        if device == "cpu":
            return self
        from imgclust.predictor.device_check import predictor_on

        other = dataclasses.replace(self)
        other.__dict__["predictor"] = predictor_on(device, self.arrays, self.parameters)
        return other

    def edit(self, who: str | None = None) -> Editor:
        """Change clusters by hand: every method of the editor returns another model of the same taxonomy.

        ```python
        model = model.edit().rename({3: "food"})
        model = model.edit().merge(9, 10)  # 9 lives on
        ```

        Args:
            who: the name that the log keeps; by default the user's.
        """
        from imgclust.model.editor import Editor

        return Editor.of(self, who)

    def renamed(self, names: Mapping[int, str | None] | Sequence[str | None]) -> ClusterModel:
        """The same model with other cluster names: another version, the same taxonomy.

        The log of a model that was edited by hand keeps it as one more edit.

        Args:
            names: number → name; other clusters keep theirs. Or one for each of `clusters`, in their order.

        Raises:
            ModelError: no such cluster, another number of names, or a name that is not one line.
        """
        named = by_number(names, [cluster.id for cluster in self.clusters])
        if self.edits:
            return self.edit().rename(named)
        clusters = tuple(dataclasses.replace(c, name=named.get(c.id, c.name)) for c in self.clusters)
        return dataclasses.replace(
            self, clusters=clusters, continues=self.taxonomy, created=now(), known_version=None
        )

    def __repr__(self) -> str:
        return showing.text(self)

    def _repr_html_(self) -> str:
        return showing.as_html(self)

    def to_arrow(self) -> pa.Table:
        """The clusters as a pyarrow table: cluster, name, fitted_images, typical.

        `fitted_images` counts training images as they were fitted; predictions for the same images may differ
        for a few of them.
        """
        return showing.as_table(self)

    def to_pandas(self) -> Any:
        """As `to_arrow`, as a pandas DataFrame."""
        return self.to_arrow().to_pandas()

    def plot_map(self, ax: Any = None) -> Any:
        """Draw the map with matplotlib: a point for each image, the name of each of the larger clusters.

        Args:
            ax: matplotlib's axes to draw on; by default new ones.

        Returns:
            The axes.

        Raises:
            ImgclustError: matplotlib is not installed.
        """
        return showing.plot_map(self, ax)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or another process gets: the fields. The predictor has threads; each makes its own."""
        return {field.name: self.__dict__[field.name] for field in dataclasses.fields(self)}

    @property
    def _format(self) -> int:
        if TABLE in self.parameters:
            return layout.FORMAT_OF_ASSIGNMENT
        return layout.FORMAT_OF_EDITS if self.edits else layout.FORMAT

    def _freeze(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The manifest and the bytes of every other file."""
        files = self._files()
        manifest: dict[str, Any] = {
            "format": self._format,
            "created": self.created,
            "encoder": self.encoder.to_dict() if self.encoder else None,
            **{t: dict(self.parameters[t]) for t in (*PARAMETERS, TABLE) if t in self.parameters},
            "figures": dict(self.figures),
            "libraries": dict(self.libraries),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        if self.reference:  # not in folders from before it was kept, which are of the same format
            manifest["reference"] = dict(self.reference)
        if self.next_number > 1 + int(self._fitted_numbers.max(initial=-1)):  # likewise
            manifest["numbers_used"] = self.next_number
        if self.next_group > 1 + max((group.id for group in self.groups), default=-1):
            manifest["groups_used"] = self.next_group
        if self.continues:
            manifest["taxonomy"] = self.continues
        manifest["version"] = layout.version_of(manifest, starts_taxonomy=not self.continues)
        manifest.setdefault("taxonomy", manifest["version"])
        return manifest, files

    def _files(self) -> dict[str, bytes]:
        names = {id_: f"{layout.THUMBNAILS}/{i:05d}.webp" for i, id_ in enumerate(sorted(self.thumbnails))}
        clusters: dict[str, Any] = {
            "clusters": [cluster.to_dict() for cluster in self.fitted_clusters],
            "thumbnails": names,
        }
        if self.groups:
            clusters["groups"] = [group.to_dict() for group in self.groups]
        arrays = {name: np.ascontiguousarray(array) for name, array in sorted(self.arrays.items())}
        return {
            layout.ARRAYS: safetensors.numpy.save(arrays),
            layout.CLUSTERS: layout.canonical(clusters),
            layout.MAP: self.map_data,
            **edits_file(self.edits, self.clusters),
            **{names[id_]: data for id_, data in self.thumbnails.items()},
        }

    def save(self, path: Path | str) -> None:
        """Write the model folder; one that is there is replaced as a whole, anything else is left alone.

        Raises:
            ModelError: `path` holds something else, or cannot be written.
        """
        layout.write_folder(Path(path), *self._freeze())

    @classmethod
    def load(cls, path: Path | str) -> ClusterModel:
        """Read a model folder.

        Raises:
            ModelError: something is missing, damaged, of an unknown format or unsafe; the text names it.
        """
        folder = Path(path)
        manifest = layout.read_manifest(folder)
        try:
            return _from_folder(folder, manifest)
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ModelError(
                f"{str(folder)!a} is not a model that this imgclust can read "
                f"({type(error).__name__}: {str(error)!a})"
            ) from error

    @classmethod
    def from_fitted(
        cls,
        umap_model: Any,
        hdbscan_model: Any,
        *,
        encoder: EncoderIdentity | None = None,
        ids: Sequence[str] | None = None,
        names: Mapping[int, str | None] | Sequence[str | None] | None = None,
        novelty: float | None = None,
        novel_rate: float = novelties.NOVEL_RATE,
    ) -> ClusterModel:
        """Freeze a pair that was fitted elsewhere, as in a pipeline like BERTopic's.

        ```python
        reducer = umap.UMAP(metric="cosine", random_state=42).fit(unit_norm_rows)
        clusterer = hdbscan.HDBSCAN(min_cluster_size=10, prediction_data=True).fit(reducer.embedding_)
        ClusterModel.from_fitted(reducer, clusterer, ids=file_names).save("model")
        ```

        Args:
            umap_model: a fitted `umap.UMAP`, of metric "cosine" or "euclidean", on unit-norm embeddings; or
                cuML's.
            hdbscan_model: a `hdbscan.HDBSCAN` fitted on `umap_model.embedding_` with `prediction_data=True`;
                or cuML's.
            encoder: who made the embeddings.
            ids: of the training images, in their order; by default their row numbers.
            names: of the clusters: number → name, or one for each. Numbers are hdbscan's labels. BERTopic
                counts its topics by size: take its names by label, not in its order.
            novelty: cosine to the nearest training embedding below which an image is novel; by default it
                follows from `novel_rate`.
            novel_rate: share of images like the training ones that may be called novel, 0..0.2.

        Raises:
            ModelError: the pair is not one that can be frozen; the text says why.
            FitError: a rate outside 0..0.2.
            EmbeddingsError: `encoder` is not an `EncoderIdentity`.
        """
        check_identity(encoder)
        novelties.check_rate(novel_rate)
        parts = freeze(plain_umap(umap_model), plain_hdbscan(hdbscan_model))
        arrays, labels = parts.arrays, parts.arrays["labels"]
        n, k = len(labels), len(arrays["cluster_nodes"])
        ids = [str(i) for i in (ids if ids is not None else range(n))]
        if len(ids) != n:
            raise ModelError(f"{len(ids)} ids for {n} training rows")
        named = by_number(names, range(k)) if names is not None else {}
        rows = arrays["embeddings"].astype(np.float32)
        table = (
            novelties.calibrate(rows, arrays["middle"], rows[:0], np.empty(0, np.float32), novel_rate)
            if novelty is None
            else {"threshold": float(novelty)}
        )
        gallery = show(
            arrays,
            range(k),
            [named.get(number) for number in range(k)],
            ids=ids,
            points=arrays["points"],
            labels=labels,
            seed=parts.parameters["umap"]["random_state"],
        )
        model = cls(
            encoder=encoder,
            parameters=parts.with_novelty(table).parameters,
            clusters=gallery.clusters,
            figures={"train": basic_figures(labels)},
            arrays=arrays,
            map_data=gallery.map_data,
            libraries=library_versions(),
        )
        check_whole(arrays, lambda: model.predictor)  # built for that alone where it is needed
        return model


def _array(embeddings: Any) -> Array:
    """
    Raises:
        EmbeddingsError: lists of different lengths, or a tensor that needs its gradient.
    """
    try:
        return np.asarray(embeddings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EmbeddingsError(f"embeddings must be floats (n, dim): {error}") from None


def _from_folder(folder: Path, manifest: Mapping[str, Any]) -> ClusterModel:
    described = layout.read_json(folder, layout.CLUSTERS)
    arrays = read_arrays(folder / layout.ARRAYS)
    encoder = manifest["encoder"]
    fitted = read_clusters(described["clusters"])
    thumbnails = {
        str(id_): (folder / name).read_bytes()
        for id_, name in described["thumbnails"].items()
        if name in manifest["files"]
    }
    numbers, used = [cluster.id for cluster in fitted], manifest.get("numbers_used")
    layout.check_numbers(numbers, used, len(arrays["cluster_nodes"]))
    groups = read_groups(described.get("groups", ()), manifest.get("groups_used"), fitted)
    reference = manifest.get("reference")
    if reference is not None:
        Reference.from_dict(reference, numbers)
    clusters, edits = read_edits(folder, manifest, fitted, arrays)
    parameters = {table: manifest[table] for table in PARAMETERS}
    if TABLE in manifest:
        parameters[TABLE] = manifest[TABLE]
    threshold_of(parameters)
    return ClusterModel(
        encoder=EncoderIdentity.from_dict(encoder) if encoder else None,
        parameters=parameters,
        clusters=clusters,
        figures=manifest["figures"],
        arrays=arrays,
        map_data=(folder / layout.MAP).read_bytes(),
        thumbnails=thumbnails,
        libraries=manifest["libraries"],
        created=manifest["created"],
        continues=None if manifest["taxonomy"] == manifest["version"] else manifest["taxonomy"],
        used=used,
        reference=reference,
        edits=edits,
        fitted=fitted if edits else None,
        groups=groups,
        groups_used=manifest.get("groups_used"),
        known_version=manifest["version"],
    )
