"""Embeddings → a frozen model: deduplicate, split, UMAP, HDBSCAN, predict, judge, number, name, freeze."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclust.errors import FitError
from imgclust.model import freeze, gallery
from imgclust.model.drift import Reference
from imgclust.model.folder import Array
from imgclust.model.model import ClusterModel
from imgclust.model.parts import UNIT
from imgclust.model.taxonomy import OTHER, Continuation
from imgclust.predictor import novelty
from imgclust.predictor.novelty import NOVEL_RATE
from imgclust.support.machine import available_memory
from imgclust.support.progress import Listener, Stages
from imgclust.training import continuation as continuing
from imgclust.training.dedupe import NEAR, Duplicates, Rows, find_duplicates
from imgclust.training.parameters import MIN_IMAGES, Parameters, estimate
from imgclust.training.umap_hdbscan import fit_pair
from imgclust.types import EncoderIdentity, Floats, Ints, Prediction

if TYPE_CHECKING:
    from imgclust.embedding.store import Embeddings

MAX_TRAIN = 200_000
CHECKED = 10_000  # training rows whose predicted label is compared with the fitted one, at most


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """Rows by what becomes of them, each ascending: int64 arrays.

    Attributes:
        train: fitted.
        test: held out; predicted, and judged.
        rest: beyond `max_train`; predicted.
    """

    train: Rows
    test: Rows
    rest: Rows


@dataclasses.dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit found.

    Attributes:
        model: to save, and to predict with.
        parameters: that were used.
        figures: of both parts; the model has them too.
        labels: int32 (n,); the cluster of every row that was given: fitted for training rows, predicted for
            held-out ones, the original's for duplicates; -1 is "other".
        split: training, held-out and other rows, without duplicates.
        duplicates: rows that were left out, and the row that each joined.
        test: predictions for `split.test`.
        seconds: stage → seconds that it took.
        continuation: what became of the previous model's clusters; None without a previous model.
    """

    model: ClusterModel
    parameters: Parameters
    figures: Mapping[str, Any]
    labels: Ints
    split: Split
    duplicates: Duplicates
    test: Prediction
    seconds: Mapping[str, float]
    continuation: Continuation | None = None

    @property
    def labels_(self) -> Ints:
        """scikit-learn's name for `labels`."""
        return self.labels


def fit(
    embeddings: Embeddings | Array,
    *,
    ids: Sequence[str] | None = None,
    encoder: EncoderIdentity | None = None,
    vocabulary: tuple[Sequence[str], Floats] | None = None,
    thumbnails: bool = True,
    parameters: Parameters | Mapping[str, Any] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    max_train: int = MAX_TRAIN,
    previous: ClusterModel | None = None,
    near: float = NEAR,
    novel_rate: float = NOVEL_RATE,
    progress: Listener | None = None,
    announce: Callable[[Parameters, Split], None] | None = None,
) -> FitResult:
    """Find the clusters of a set of images, judge them on images held out, and freeze them.

    The same input, parameters and seed give the same model on one machine.

    Args:
        embeddings: as `read_embeddings` gives them, or an array (n, d) of unit-norm rows of any float type,
            which are rounded to float16 values.
        ids: names of the rows of an array, all different; by default their numbers.
        encoder: who made an array; recorded, and checked at prediction.
        vocabulary: phrases and their unit-norm vectors in the same space, for the clusters' names.
        thumbnails: store small pictures of each cluster's typical images, where their files can be read.
        parameters: all of them, or those that differ from `Parameters.for_size` of the training images.
        test_fraction: share of the images, after deduplication, that is held out; 0..0.9.
        seed: of the split.
        max_train: training images at most; the others are predicted.
        previous: the model whose taxonomy this one continues: clusters that are the same as one of its
            clusters (see `imgclust.model.taxonomy.match`) keep its number and its name, others get a number
            that no cluster of the taxonomy has had. The fit itself is the same as without it.
        near: cosine from which two images are the same picture; above 1 only equal files are.
        novel_rate: share of images like the training ones that may be called novel; 0..0.2.
        progress: told what is going on.
        announce: told the parameters and the split before the long part begins.

    Raises:
        FitError: too few images, not enough memory, no cluster, or embeddings that the previous model does
            not take; the text says what to do.
    """
    if not near > 0:
        raise FitError(f"near must be a cosine above 0, is {near}")
    novelty.check_rate(novel_rate)
    given = _Given.of(embeddings, ids, encoder)
    if previous is not None:
        continuing.check_space(previous, given.rows, given.encoder)
    stages = Stages(progress)
    with stages.stage("duplicates", f"{len(given.ids)} images") as tell:
        duplicates = find_duplicates(given.rows, given.digests, threshold=near, progress=tell)
    split = split_rows(duplicates.kept, test_fraction=test_fraction, max_train=max_train, seed=seed)
    parameters = _parameters(parameters, split, duplicates)
    _check_memory(split, given.rows, parameters)
    if announce:
        announce(parameters, split)
    model = freeze.start_model(*fit_pair(given.rows[split.train], parameters, stages), given.encoder)
    with stages.stage("predict", "held-out and training images, one by one") as tell:
        model, found = _predict(model, given.rows, split, novel_rate, tell)
    labels = _labels(model, split, duplicates, found)
    reference = Reference.of(found.test, model.numbers)
    model = dataclasses.replace(
        model,
        figures=_figures(model, split, duplicates, found),
        reference=reference.to_dict() if reference else None,
    )
    test, continuation = found.test, None
    if previous is not None:
        with stages.stage("taxonomy", f"compared with model {previous.version}") as tell:
            continuation = continuing.compare(previous, model, tell)
        model = continuing.continue_model(model, previous, continuation)
        numbers = np.append(model.numbers, np.int32(OTHER))
        labels, test = numbers[labels], test.numbered(numbers)
    order = np.concatenate([split.train, split.test])
    with stages.stage("map", "map, names and typical pictures"):
        model = freeze.finish_model(
            model,
            ids=[given.ids[row] for row in order],
            points=np.concatenate([model.arrays["points"], test.points]),
            labels=labels[order],
            phrases=vocabulary,
            thumbnail=partial(_thumbnail, given.sources, order) if thumbnails else None,
        )
    return FitResult(
        model, parameters, model.figures, labels, split, duplicates, test, stages.seconds, continuation
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Given:
    """The input, checked: float32 rows of float16 values, and what is known of each."""

    rows: Floats
    ids: Sequence[str]
    digests: Sequence[str | None] | None
    sources: Sequence[str] | None
    encoder: EncoderIdentity | None

    @classmethod
    def of(
        cls, embeddings: Embeddings | Array, ids: Sequence[str] | None, encoder: EncoderIdentity | None
    ) -> _Given:
        if isinstance(embeddings, np.ndarray):
            rows = _checked(embeddings)
            names = [str(i) for i in (ids if ids is not None else range(len(rows)))]
            return cls(rows, _different(names, len(rows)), None, None, encoder)
        if ids is not None or encoder is not None:
            raise FitError("ids and encoder come with the embeddings: give them with an array only")
        rows = _checked(embeddings.vectors)
        return cls(
            rows,
            _different(embeddings.ids, len(rows)),
            embeddings.sha256,
            embeddings.sources,
            embeddings.identity,
        )


def _checked(rows: Array) -> Floats:
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise FitError(f"embeddings must be floats (n, d), are {rows.dtype} {rows.shape}")
    rounded = rows.astype(np.float16).astype(np.float32)
    lengths = np.linalg.norm(rounded, axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) < UNIT))
    if len(wrong):
        raise FitError(
            f"embeddings must be finite and of length 1: row {wrong[0]} has length "
            f"{lengths[wrong[0]]:.4g}; divide each row by its length"
        )
    return rounded


def _different(ids: Sequence[str], n: int) -> Sequence[str]:
    if len(ids) != n:
        raise FitError(f"{len(ids)} ids for {n} embeddings")
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise FitError(f"the id {name[:200]!a} is there twice: ids must be different")
        seen.add(name)
    return ids


def split_rows(kept: Rows, *, test_fraction: float, max_train: int, seed: int) -> Split:
    """Shuffle the kept rows, hold a share out, train on at most `max_train` of the others.

    Raises:
        FitError: a share outside 0..0.9, or nothing to train on.
    """
    if not 0 <= test_fraction <= 0.9:
        raise FitError(f"test_fraction must be 0 to 0.9, is {test_fraction}")
    if max_train < 1:
        raise FitError(f"max_train must be at least 1, is {max_train}")
    order = np.random.default_rng(seed).permutation(kept)
    held_out = round(test_fraction * len(order))
    test, train, rest = np.split(order, [held_out, held_out + max_train])
    return Split(train=np.sort(train), test=np.sort(test), rest=np.sort(rest))


def _parameters(
    given: Parameters | Mapping[str, Any] | None, split: Split, duplicates: Duplicates
) -> Parameters:
    n, different = len(split.train), len(duplicates.kept)
    if different < MIN_IMAGES or n < MIN_IMAGES // 2:
        raise FitError(
            f"{different} different images ({len(duplicates)} duplicates left out), {n} of them to train on, "
            f"are too few to cluster: give at least {MIN_IMAGES}"
        )
    parameters = given if isinstance(given, Parameters) else Parameters.for_size(n).replaced(given or {})
    parameters.check(n)
    return parameters


def _check_memory(split: Split, rows: Floats, parameters: Parameters) -> None:
    n = len(split.train)
    needed = estimate(n, rows.shape[1], len(rows), parameters).memory
    there = available_memory()
    if there is not None and needed - rows.nbytes > there:  # the rows are in memory already
        raise FitError(
            f"fitting {n} images needs about {needed / 1e9:.1f} GB of memory, "
            f"{(there + rows.nbytes) / 1e9:.1f} GB are there: train on fewer (max_train, now {n}) "
            f"or lower min_samples (now {parameters.min_samples})"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """Predictions of the parts; `train` is of the training rows numbered `checked`."""

    test: Prediction
    rest: Prediction
    train: Prediction
    checked: Rows


def _predict(
    model: ClusterModel, rows: Floats, split: Split, novel_rate: float, tell: Callable[[float], None]
) -> tuple[ClusterModel, _Found]:
    """Predict all parts; the held-out ones, and training ones where these are few, say what is novel."""
    checked = np.sort(np.random.default_rng(0).permutation(len(split.train))[:CHECKED])
    total = len(split.test) + len(split.rest) + len(checked)
    before = 0

    def predicted(part: Rows) -> Prediction:
        nonlocal before
        prediction = model.predict(rows[part], progress=lambda done: tell((before + done) / total))
        before += len(part)
        return prediction

    test = predicted(split.test)
    middle, held_out, nearest = model.arrays["middle"], rows[split.test], test.similarities
    table = novelty.calibrate(rows[split.train], middle, held_out, nearest, novel_rate)
    test = dataclasses.replace(test, novel=novelty.judge(table, middle, held_out, nearest))
    model = freeze.with_novelty(model, table)
    found = _Found(test, predicted(split.rest), predicted(split.train[checked]), checked)
    return model, found


def _labels(model: ClusterModel, split: Split, duplicates: Duplicates, found: _Found) -> Ints:
    representative = duplicates.representative()
    labels = np.full(len(representative), -1, np.int32)
    labels[split.train] = model.labels_
    labels[split.test] = found.test.labels
    labels[split.rest] = found.rest.labels
    return labels[representative]


def _figures(model: ClusterModel, split: Split, duplicates: Duplicates, found: _Found) -> dict[str, Any]:
    """What a user wants to know of a fit; the same for the same fit, so without times."""
    same = found.train.labels == model.labels_[found.checked]
    return {
        "images": len(duplicates.kept) + len(duplicates),
        "duplicates": {"exact": int(duplicates.exact.sum()), "near": int((~duplicates.exact).sum())},
        "train": freeze.basic_figures(model.labels_),
        "test": freeze.basic_figures(found.test.labels),
        "predicted_as_fitted": {"checked": len(same), "share": round(float(same.mean()), 4)},
    }


def _thumbnail(sources: Sequence[str] | None, order: Rows, row: int) -> bytes | None:
    return gallery.thumbnail_of(sources[order[row]]) if sources is not None else None
