"""Predictions → a dataset of FiftyOne, where that is installed: only its package can write its database."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from imgclust.errors import ImgclustError
from imgclust.exporting.labelling import Labels
from imgclust.images.sources import is_url
from imgclust.support.path_text import storable
from imgclust.types import OTHER

if TYPE_CHECKING:
    from imgclust.tagging.rows import Row

BATCH = 1000  # samples that are added at once


def write_fiftyone(rows: Iterable[Row], name: str, labels: Labels) -> int:
    """Make a dataset with a sample for each image: its file, `image_id`, and `cluster`, a classification.

    Args:
        rows: read once.
        name: of the dataset, which must be new; it outlives this process.
        labels: see `imgclust.exporting.labelling.labels_of`.

    Returns:
        The number of samples. An image that is in no cluster has no classification.

    Raises:
        ImgclustError: FiftyOne is not installed, has a dataset of this name, or an image's file is not known.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise ImgclustError(f"FiftyOne cannot be loaded ({error}): pip install fiftyone") from None
    if fiftyone.dataset_exists(name):
        raise ImgclustError(f"FiftyOne has a dataset {name!a:.200} already: choose another name with -o")
    rows = iter(rows)
    dataset, count = fiftyone.Dataset(name, persistent=True), 0
    try:
        while some := [_sample(fiftyone, row, labels) for row in itertools.islice(rows, BATCH)]:
            dataset.add_samples(some, progress=False)
            count += len(some)
    except BaseException:
        dataset.delete()
        raise
    return count


def _sample(fiftyone: Any, row: Row, labels: Labels) -> Any:
    if not row.source:
        raise ImgclustError(
            f"it is not known where image {row.id!a:.200} is: give the images or their embeddings folder"
        )
    source = storable(row.source)
    sample = fiftyone.Sample(filepath=source if is_url(source) else os.path.abspath(source))
    sample["image_id"] = storable(row.id)
    if row.cluster != OTHER:
        sample["cluster"] = fiftyone.Classification(label=labels[row.cluster], confidence=row.probability)
    return sample
