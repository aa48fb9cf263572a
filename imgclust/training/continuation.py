"""A fit and the model before it → the fit in the numbers of the taxonomy that it continues."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from imgclust.errors import EmbeddingsError, FitError
from imgclust.model.folder import Array
from imgclust.model.model import ClusterModel
from imgclust.model.taxonomy import COMPARED, OTHER, Continuation, contingency, continued
from imgclust.training.dedupe import Rows
from imgclust.types import EncoderIdentity, Floats, Ints


def check_space(previous: ClusterModel, rows: Floats, encoder: EncoderIdentity | None) -> None:
    """Refuse, before hours of work, embeddings that the previous model can say nothing of.

    Raises:
        FitError: they are of another encoder or width; both are named.
    """
    otherwise = "or fit without a previous model, which starts another taxonomy"
    try:
        previous.check_encoder(encoder)
    except EmbeddingsError as error:
        raise FitError(f"model {previous.version} cannot be continued: {error}, {otherwise}") from None
    if rows.shape[1] != previous.dim:
        raise FitError(
            f"model {previous.version} cannot be continued: it takes embeddings of {previous.dim} numbers, "
            f"these have {rows.shape[1]}: give embeddings of its encoder, {otherwise}"
        )


def compare(
    previous: ClusterModel, model: ClusterModel, progress: Callable[[float], None] | None = None
) -> Continuation:
    """What became of the previous model's clusters: each model is asked about the other's training images.

    One alone would be deceived: a model puts a kind of picture that it never saw into a cluster of its own,
    and where that cluster's own pictures are gone, nothing contradicts.

    Args:
        model: the new one; what numbers its clusters have now is of no influence.
        progress: told the share that is done.
    """
    samples = [_sample(one) for one in (previous, model)]
    total, before = sum(map(len, samples)), 0

    def told(done: int) -> None:
        if progress:
            progress((before + done) / total)

    now = _said(model, previous.arrays["embeddings"][samples[0]], told)
    before = len(samples[0])
    then = _said(previous, model.arrays["embeddings"][samples[1]], told)
    clusters = len(previous.clusters), len(model.clusters)
    return continued(
        (
            contingency(previous.arrays["labels"][samples[0]], now, clusters),
            contingency(then, model.arrays["labels"][samples[1]], clusters),
        ),
        [cluster.size for cluster in model.clusters],
        previous.clusters,
        following=previous.next_number,
        version=previous.version,
    )


def _sample(model: ClusterModel) -> Rows:
    rows = np.random.default_rng(0).permutation(len(model.arrays["labels"]))
    return np.sort(rows[:COMPARED])


def _said(model: ClusterModel, rows: Array, told: Callable[[int], None]) -> Ints:
    """int32: labels as the model's arrays count clusters; "other", too, what is unlike all that it knows."""
    found = model.predict(rows, progress=told)
    place = {number: i for i, number in enumerate(model.numbers.tolist())}
    labels = np.array([place.get(label, OTHER) for label in found.labels.tolist()], np.int32)
    return np.where(found.novel, np.int32(OTHER), labels)


def continue_model(model: ClusterModel, previous: ClusterModel, found: Continuation) -> ClusterModel:
    """The model with the taxonomy's numbers, and the names of the clusters that it keeps."""
    clusters = tuple(
        dataclasses.replace(cluster, id=number, name=previous.name(number))
        for cluster, number in zip(model.clusters, found.numbers, strict=True)
    )
    return dataclasses.replace(
        model,
        clusters=clusters,
        figures={**model.figures, "taxonomy": found.to_dict()},
        continues=previous.taxonomy,
        used=max(previous.next_number, 1 + max(found.numbers)),
    )
