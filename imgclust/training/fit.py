"""Embeddings → a frozen model: deduplicate, split, UMAP, HDBSCAN, predict, judge, number, name, freeze."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclust.errors import FitError
from imgclust.model.drift import Reference
from imgclust.model.editor import with_edits
from imgclust.model.folder import Array
from imgclust.model.freeze import freeze, library_versions
from imgclust.model.gallery import show
from imgclust.model.model import ClusterModel
from imgclust.model.taxonomy import Continuation
from imgclust.naming.fitting import FitNamer, check_vocabulary, fit_namer
from imgclust.predictor import novelty
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.support.progress import Listener, Stages
from imgclust.training.agreement import REFITS, judge_of
from imgclust.training.carrying import carry_edits, carry_group_names, class_pictures
from imgclust.training.continuation import (
    Numbering,
    as_before,
    ask_both,
    births,
    check_space,
    compare,
    names_by_hand,
    predicted_before,
)
from imgclust.training.cost import affordable
from imgclust.training.cuml_fit import check_engine, cuml_version, for_engine
from imgclust.training.dedupe import NEAR, Duplicates, find_duplicates
from imgclust.training.given import MAX_TRAIN, Given
from imgclust.training.group_numbers import NumberedGroups
from imgclust.training.grouping import group
from imgclust.training.ordering import content_order
from imgclust.training.other_target import check_labels, check_target, measure
from imgclust.training.parameters import Count, Parameters, choose
from imgclust.training.predictions import copies, predict_all
from imgclust.training.split import Split, split_rows
from imgclust.types import EncoderIdentity, Floats, Ints, Prediction

if TYPE_CHECKING:
    from imgclust.embedding.store import Embeddings


@dataclasses.dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit found.

    Attributes:
        model: to save, and to predict with.
        ids: n names of the rows that were given, or read: those of `labels`.
        parameters: that were used.
        figures: of both parts; the model has them too.
        labels: int32 (n,); the cluster of every given row: fitted for training rows, predicted for held-out
            rows, the original's for duplicates. -1 is "other", here including assigned images.
        split: training, held-out and other rows, without duplicates.
        duplicates: rows that were left out, and the row that each is a copy of.
        test: predictions for `split.test`.
        seconds: stage → duration in seconds.
        continuation: what became of the previous model's clusters; None without a previous model.
        groups: likewise, of its groups; None where the model has none.
    """

    model: ClusterModel
    ids: Sequence[str]
    parameters: Parameters
    figures: Mapping[str, Any]
    labels: Ints
    split: Split
    duplicates: Duplicates
    test: Prediction
    seconds: Mapping[str, float]
    continuation: Continuation | None = None
    groups: Continuation | None = None

    def __repr__(self) -> str:
        return f"<FitResult: {len(self.labels):,} images, {self.model!r}>"

    @property
    def labels_(self) -> Ints:
        """scikit-learn's name for `labels`."""
        return self.labels


def fit(
    embeddings: Embeddings | Array | Path | str,
    *,
    ids: Sequence[str] | None = None,
    encoder: EncoderIdentity | None = None,
    normalize: bool = False,
    vocabulary: tuple[Sequence[str], Floats] | FitNamer | None = None,
    names: bool = True,
    thumbnails: bool = True,
    parameters: Parameters | Mapping[str, Any] | None = None,
    recipe: str = "steady",
    clusters: Count | None = None,
    groups: Count | bool | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    max_train: int = MAX_TRAIN,
    previous: ClusterModel | Path | str | None = None,
    near: float = NEAR,
    novel_rate: float = novelty.NOVEL_RATE,
    other_target: float | None = None,
    labels: Sequence[str | None] | None = None,
    progress: Listener | None = None,
    announce: Callable[[Parameters, Split], None] | None = None,
    engine: str = "cpu",
) -> FitResult:
    """Find clusters in a set of images, check them on held-out images, and freeze them into a model.

    On one machine, the same images, parameters and seed give the same model, in any order of the images.
    Results are in the order in which the images were given.

    Args:
        embeddings: the result of `read_embeddings`; or an array (n, d) of unit-norm rows of any float type,
            which are rounded to float16 values; or the folder itself. Of a large folder, only as many images
            are read as are trained on and held out (`imgclust.training.sample`); see `FitResult.ids`.
        ids: unique names of the rows of an array; default: row numbers.
        encoder: the encoder of an array; it is recorded, and checked at prediction.
        normalize: divide rows by their length, instead of refusing rows that are not of length 1.
        vocabulary: the source of names: phrases and their unit-norm vectors in the same space, or a namer.
            Default: the hierarchy of ImageNet's classes for embeddings of `mini`, no names for other
            encoders.
        names: if False, clusters get no names; with `previous`, clusters that have a name keep it.
        thumbnails: store small pictures of each cluster's typical images, if their files can be read.
        parameters: all parameters, or only those that differ from the recipe's.
        recipe: "steady", whose parameters grow with the number of training images (`Parameters.for_size`), or
            "article", the published one.
        clusters: the number of clusters, such as 12 or (10, 30): the best choice of that many from the tree,
            or as many as the tree has. `figures["bounded"]` has the cost of it.
        groups: True to add a second level, groups of clusters with their own numbers and names; one or two
            numbers for that many groups. Default: as in the previous model.
        test_fraction: share of the images to hold out, after deduplication; 0..0.9.
        seed: random seed of the split.
        max_train: maximum number of training images; the others are predicted.
        previous: the model, or its folder, whose taxonomy to continue. Clusters that match one of its
            clusters (`imgclust.model.taxonomy.match`) keep its number and name; others get numbers that the
            taxonomy has never used. The fit starts from its map and prefers its clusters; there is no
            consensus, unless the parameters ask for it.
        near: cosine similarity from which two images count as the same picture; above 1, only equal files.
        novel_rate: share of images similar to the training images that may be called novel; 0..0.2.
        other_target: share of the images that may stay in "other". Images between clusters, those with the
            best scores first, are put into their best candidate (`imgclust.training.other_target`). None:
            all stay.
        labels: n labels of what the images show, only to measure the accuracy of `other_target`. Without
            labels, it is measured by two more fits on other samples.
        progress: is called with the progress.
        announce: is called with the parameters and the split before the long part begins.
        engine: "cpu", or "cuml" for UMAP and HDBSCAN on a GPU (`imgclust.training.cuml_fit`).

    Raises:
        FitError: too few images, not enough memory, no cluster, a target that cannot be measured, or
            embeddings that do not fit the previous model; the message says what to do.
        ImgclustError: the engine is not installed.
    """
    check_engine(engine)
    if not near > 0:
        raise FitError(f"near must be a cosine above 0, is {near}")
    novelty.check_rate(novel_rate)
    check_target(other_target, test_fraction)
    check_vocabulary(vocabulary)
    if isinstance(previous, Path | str):
        previous = ClusterModel.load(previous)
    given = Given.of(
        embeddings, ids, encoder, normalize=normalize, max_train=max_train, test_fraction=test_fraction
    )
    ids_as_given = given.ids
    check_labels(labels, len(given.ids))
    as_given = content_order(given.rows, given.ids, given.digests, given.hashes)
    given = given.taken(as_given)
    labels = None if labels is None else [labels[row] for row in as_given]
    if previous is not None:
        check_space(previous, given.rows, given.encoder)
        if not isinstance(parameters, Parameters):
            parameters = as_before(previous, parameters or {}, groups)
    stages = Stages(progress)
    with stages.stage("duplicates", f"{len(given.ids)} images") as tell:
        duplicates = find_duplicates(
            given.rows, given.digests, hashes=given.hashes, threshold=near, progress=tell
        )
    split = split_rows(duplicates.kept, test_fraction=test_fraction, max_train=max_train, seed=seed)
    parameters = choose(
        parameters, recipe, len(split.train), len(duplicates.kept), len(duplicates), clusters, groups
    )
    parameters = for_engine(engine, parameters)
    cost = affordable(len(split.train), given.rows, parameters)
    if announce:
        announce(parameters, split.renumbered(as_given))
    before = None
    if previous is not None:
        with stages.stage("previous", f"what model {previous.version} says of the training images") as tell:
            before = predicted_before(previous, given.rows[split.train], tell)
    reducer, clusterer, selection = group(given.rows[split.train], parameters, cost, stages, before, engine)
    parts = freeze(reducer, clusterer, selection.nodes).selected_by(parameters.cluster_selection_method)
    predictor = FrozenPredictor(parts.arrays, parts.parameters)
    with stages.stage("predict", "held-out and training images, one by one") as tell:
        found, thresholds = predict_all(
            predictor, parts, given.rows, split, duplicates, novel_rate, near, tell
        )
    parts = parts.with_novelty(thresholds)
    target = None
    if other_target is not None:
        how = "by labels" if labels is not None else f"by {REFITS} more fits"
        with stages.stage("other", f"how right it is to assign what is between clusters, {how}") as tell:
            judge = judge_of(labels, given.rows, split, parts.arrays["labels"], parameters, tell)
            target = measure(found.test, split.test, other_target, judge)
        parts, found = parts.with_assignment(target.table()), found.assigned(target.chosen.score)
    numbering = Numbering.fresh(len(parts.arrays["cluster_nodes"]))
    asked = continuation = None
    if previous is not None:
        with stages.stage("taxonomy", f"compared with model {previous.version}") as tell:
            asked = ask_both(previous, parts.arrays, predictor.judging(thresholds), tell)
        continuation = compare(previous, parts.arrays, asked)
        numbering = Numbering.continuing(previous, continuation)
        parts = parts.with_arrays(births(previous, continuation, parts.arrays).arrays())
        if previous.edits:
            numbering = carry_edits(previous, numbering, parts.arrays)
    numbered = NumberedGroups.of(selection.level, parts.arrays["labels"], previous, asked)
    reference = Reference.of(found.test, range(len(numbering.numbers)))
    if reference is not None:
        reference = reference.with_copies(*copies(split, duplicates, parts.arrays, parts.parameters))
    found_labels, test = numbering.of(found.labels), found.test.numbered(numbering.table)
    order = np.concatenate([split.train, split.test])
    by_hand = names_by_hand(previous) if previous else set()
    with stages.stage("map", "map, names and typical pictures"):
        namer = fit_namer(vocabulary, given.encoder) if names else None
        gallery = show(
            parts.arrays,
            numbering.numbers,
            numbering.named(namer, parts.arrays, by_hand),
            ids=[given.ids[row] for row in order],
            points=np.concatenate([parts.arrays["points"], test.points]),
            labels=found_labels[order],
            seed=parameters.random_state,
            stability=selection.known(),
            thumbnail=(lambda row: given.thumbnail(order[row])) if thumbnails else None,
        )
        numbered = numbered.named(parts.arrays, gallery.clusters, namer, by_hand)
    figures = found.figures(split, duplicates)
    if selection.bounded:
        figures["bounded"] = selection.bounded.to_dict()
    if target is not None:
        figures["other_target"] = target.to_dict()
    model = ClusterModel(
        encoder=given.encoder,
        parameters=parts.parameters,
        clusters=numbered.put_on(gallery.clusters),
        figures={**figures, "taxonomy": continuation.to_dict()} if continuation else figures,
        arrays=parts.arrays,
        map_data=gallery.map_data,
        thumbnails=gallery.thumbnails,
        libraries=library_versions() | ({"cuml": cuml_version()} if engine == "cuml" else {}),
        continues=numbering.continues,
        used=numbering.used,
        groups=numbered.groups,
        groups_used=numbered.used,
        reference=reference.to_dict() if reference else None,
    )
    edits = [*numbering.edits, *(carry_group_names(previous, numbered.groups) if previous else ())]
    if edits:
        model = with_edits(model, edits)
        if previous is not None and thumbnails:
            model = dataclasses.replace(model, thumbnails={**model.thumbnails, **class_pictures(previous)})
        assert model.edit_map is not None
        found_labels = model.edit_map.labels(found.labels, found.points)
        if model.class_rules is not None:
            rows = given.rows[duplicates.representative()]
            found_labels = model.class_rules.relabel(found_labels, rows)
        test = model.shown(found.test, given.rows[split.test])
    labels_as_given = np.empty_like(found_labels)
    labels_as_given[as_given] = found_labels
    return FitResult(
        model,
        ids_as_given,
        parameters,
        model.figures,
        labels_as_given,
        split.renumbered(as_given),
        duplicates.renumbered(as_given),
        test,
        stages.seconds,
        continuation,
        numbered.continuation,
    )
