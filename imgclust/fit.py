"""Embeddings → a frozen model: deduplicate, split, UMAP, HDBSCAN, predict, judge, name, freeze."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from imgclust import freeze
from imgclust.dedupe import NEAR, Duplicates, Rows, find_duplicates
from imgclust.errors import FitError
from imgclust.layout import Array
from imgclust.model import ClusterModel
from imgclust.parameters import MIN_IMAGES, Parameters, available_memory, estimate
from imgclust.types import EncoderIdentity, Floats, Ints, Prediction

MAX_TRAIN = 200_000
CHECKED = 300  # training rows whose predicted label is compared with the fitted one, at most


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """What a fit is doing.

    Attributes:
        stage: "duplicates", "umap", "hdbscan", "predict", "map", "names".
        detail: for people.
        done: share of the stage, 0..1; None: not known.
        elapsed: seconds since the stage began.
    """

    stage: str
    detail: str
    done: float | None
    elapsed: float


Listener = Callable[[Progress], None]


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
    """

    model: ClusterModel
    parameters: Parameters
    figures: Mapping[str, Any]
    labels: Ints
    split: Split
    duplicates: Duplicates
    test: Prediction
    seconds: Mapping[str, float]

    @property
    def labels_(self) -> Ints:
        """scikit-learn's name for `labels`."""
        return self.labels


def fit(
    embeddings: Array,
    *,
    ids: Sequence[str] | None = None,
    digests: Sequence[str | None] | None = None,
    encoder: EncoderIdentity | None = None,
    vocabulary: tuple[Sequence[str], Floats] | None = None,
    thumbnail: Callable[[int], bytes | None] | None = None,
    parameters: Parameters | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    max_train: int = MAX_TRAIN,
    near: float = NEAR,
    progress: Listener | None = None,
) -> FitResult:
    """Find the clusters of a set of images, judge them on images held out, and freeze them.

    The same input, parameters and seed give the same model on one machine.

    Args:
        embeddings: (n, d), unit-norm rows of any float type; rounded to float16 values.
        ids: names of the rows, all different; by default their numbers.
        digests: SHA-256 of the files, for exact duplicates.
        encoder: who made the embeddings; recorded, and checked at prediction.
        vocabulary: phrases and their unit-norm vectors in the same space, for the clusters' names.
        thumbnail: row → WebP of its picture, or None where it cannot be read; called for typical pictures.
        parameters: by default `Parameters.for_size` of the number of training images.
        test_fraction: share of the images, after deduplication, that is held out; 0..0.9.
        seed: of the split.
        max_train: training images at most; the others are predicted.
        near: cosine from which two images are the same picture.
        progress: told what is going on.

    Raises:
        FitError: too few images, not enough memory, or no cluster; the text says what to do.
    """
    clock = _Stages(progress)
    rows = _checked(embeddings)
    names = _checked_ids(ids, len(rows))
    with clock.stage("duplicates", f"{len(rows)} images") as tell:
        duplicates = find_duplicates(rows, digests, threshold=near, progress=tell)
    split = split_rows(duplicates.kept, test_fraction=test_fraction, max_train=max_train, seed=seed)
    if len(duplicates.kept) < MIN_IMAGES or len(split.train) < MIN_IMAGES // 2:
        raise FitError(
            f"{len(duplicates.kept)} different images ({len(duplicates)} duplicates left out) are too few to "
            f"cluster, {len(split.train)} of them to train on: give at least {MIN_IMAGES}"
        )
    parameters = parameters or Parameters.for_size(len(split.train))
    parameters.check(len(split.train))
    _check_memory(split, rows, parameters)
    pair = _fit_pair(rows[split.train], parameters, clock)
    model = freeze.start_model(*pair, held_out=rows[split.test], encoder=encoder)
    predictions = _predict(model, rows, split, clock)
    labels = _all_labels(model, split, duplicates, predictions)
    figures = _figures(model, split, duplicates, predictions)
    with clock.stage("map", "map and typical pictures"):
        order = np.concatenate([split.train, split.test])
        model = freeze.finish_model(
            model,
            ids=[names[row] for row in order],
            points=np.concatenate([model.arrays["points"], predictions["test"].points]),
            labels=labels[order],
            figures=figures,
            phrases=vocabulary,
            thumbnail=thumbnail and (lambda row: thumbnail(int(order[row]))),
        )
    return FitResult(
        model=model,
        parameters=parameters,
        figures=figures,
        labels=labels,
        split=split,
        duplicates=duplicates,
        test=predictions["test"],
        seconds=clock.seconds,
    )


def split_rows(kept: Rows, *, test_fraction: float, max_train: int, seed: int) -> Split:
    """Shuffle the kept rows, hold a share out, train on at most `max_train` of the others.

    Raises:
        FitError: a share outside 0..0.9.
    """
    if not 0 <= test_fraction <= 0.9:
        raise FitError(f"test_fraction must be 0 to 0.9, is {test_fraction}")
    order = np.random.default_rng(seed).permutation(kept)
    held_out = round(test_fraction * len(order))
    test, train, rest = np.split(order, [held_out, held_out + max_train])
    return Split(train=np.sort(train), test=np.sort(test), rest=np.sort(rest))


def _checked(embeddings: Array) -> Floats:
    """float32 rows of float16 values, finite and of length 1."""
    rows = np.asarray(embeddings)
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise FitError(f"embeddings must be floats (n, d), are {rows.dtype} {rows.shape}")
    rows = rows.astype(np.float16).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) < 0.01))
    if len(wrong):
        raise FitError(
            f"embeddings must be finite and of length 1: row {wrong[0]} has length {lengths[wrong[0]]:.4g}; "
            "divide each row by its length"
        )
    return rows


def _checked_ids(ids: Sequence[str] | None, n: int) -> list[str]:
    names = [str(i) for i in ids] if ids is not None else [str(i) for i in range(n)]
    if len(names) != n:
        raise FitError(f"{len(names)} ids for {n} embeddings")
    if len(set(names)) != n:
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise FitError(f"the id {ascii(twice)[:200]} is there twice: ids must be different")
    return names


def _check_memory(split: Split, rows: Floats, parameters: Parameters) -> None:
    n, total = len(split.train), len(rows)
    cost, there = estimate(n, rows.shape[1], total, parameters), available_memory()
    already = rows.nbytes  # a part of the estimate that is taken already
    if there is not None and cost.memory - already > there:
        raise FitError(
            f"fitting {n} images needs about {cost.memory / 1e9:.1f} GB, {(there + already) / 1e9:.1f} GB are there: "
            f"train on fewer (max_train, now {n}) or lower min_samples (now {parameters.min_samples})"
        )


def _fit_pair(rows: Floats, p: Parameters, clock: _Stages) -> tuple[Any, Any]:
    """Fit UMAP and HDBSCAN.

    Raises:
        FitError: no cluster was found.
    """
    import hdbscan
    import umap

    n = len(rows)
    with clock.stage("umap", f"{n} images, {p.n_epochs} epochs") as tell, _listening(tell) as tqdm:
        reducer = umap.UMAP(
            n_neighbors=p.n_neighbors, n_components=p.n_components, min_dist=p.min_dist, n_epochs=p.n_epochs,
            metric=p.metric, random_state=p.random_state, n_jobs=1, **tqdm,
        ).fit(rows)  # fmt: skip
    with clock.stage("hdbscan", f"{n} images, min_samples {p.min_samples}"):
        clusterer = hdbscan.HDBSCAN(
            min_cluster_size=p.min_cluster_size, min_samples=p.min_samples, prediction_data=True,
            cluster_selection_method=p.cluster_selection_method, core_dist_n_jobs=1,
        ).fit(reducer.embedding_)  # fmt: skip
    if clusterer.labels_.max() < 0:
        raise FitError(
            f"no cluster was found among {n} images: give more images, or lower min_cluster_size "
            f"(now {p.min_cluster_size}) or min_samples (now {p.min_samples})"
        )
    return reducer, clusterer


def _predict(model: ClusterModel, rows: Floats, split: Split, clock: _Stages) -> dict[str, Prediction]:
    """Predict the held-out rows, the rest, and a sample of the training rows."""
    sample = np.sort(np.random.default_rng(0).permutation(len(split.train))[:CHECKED])
    parts = {"test": split.test, "rest": split.rest, "train": split.train[sample]}
    total, found = sum(map(len, parts.values())), {}
    with clock.stage("predict", f"{total} images") as tell:
        before = 0
        for name, part in parts.items():
            found[name] = model.predict(rows[part], progress=lambda done, b=before: tell((b + done) / total))
            before += len(part)
    return found


def _all_labels(
    model: ClusterModel, split: Split, duplicates: Duplicates, predictions: Mapping[str, Prediction]
) -> Ints:
    representative = duplicates.representative()
    labels = np.full(len(representative), -1, np.int32)
    labels[split.train] = model.labels_
    labels[split.test] = predictions["test"].labels
    labels[split.rest] = predictions["rest"].labels
    return labels[representative]


def _figures(
    model: ClusterModel, split: Split, duplicates: Duplicates, predictions: Mapping[str, Prediction]
) -> dict[str, Any]:
    """What a user wants to know of a fit; the same for the same fit, so without times."""
    sample = np.sort(np.random.default_rng(0).permutation(len(split.train))[:CHECKED])
    same = predictions["train"].labels == model.labels_[sample]
    return {
        "images": len(duplicates.kept) + len(duplicates),
        "duplicates": {"exact": int(duplicates.exact.sum()), "near": int((~duplicates.exact).sum())},
        "train": freeze.basic_figures(model.labels_),
        "test": freeze.basic_figures(predictions["test"].labels),
        "novel_test": round(float(predictions["test"].novel.mean()), 4) if len(split.test) else 0.0,
        "predicted_as_fitted": {"checked": len(sample), "share": round(float(same.mean()), 4)},
    }


class _Stages:
    """Times the stages of a fit and tells the listener."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, detail: str) -> Iterator[Callable[[float | None], None]]:
        start = time.perf_counter()

        def tell(done: float | None) -> None:
            if self._listener:
                self._listener(Progress(name, detail, done, time.perf_counter() - start))

        tell(None)
        yield tell
        tell(1.0)
        self.seconds[name] = time.perf_counter() - start


@contextmanager
def _listening(tell: Callable[[float | None], None]) -> Iterator[dict[str, Any]]:
    """Arguments that make UMAP's own progress bar speak to `tell` instead of to the terminal."""
    yield {}
