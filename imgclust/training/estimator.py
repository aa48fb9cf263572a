"""The whole of it as scikit-learn has it: `ImageClusterer().fit(X).predict(X)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from imgclust.errors import EmbeddingsError
from imgclust.predictor.novelty import NOVEL_RATE
from imgclust.training.dedupe import NEAR
from imgclust.training.fit import fit
from imgclust.training.parameters import Count
from imgclust.types import Floats, Ints


class ImageClusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Clusters of embeddings, frozen: what is predicted for a row depends on that row alone.

    Args:
        parameters: those of `imgclust.training.parameters.Parameters` that differ from the defaults, like
            `{"min_cluster_size": 20}`.
        clusters: how many there must be, 12 or (10, 30); by default as many as there are.
        normalize: divide rows by their length; without it, they have to be of length 1.
        near: cosine from which two rows count as one; above 1 only equal rows do.
        novel_rate: share of rows like the training ones that may be called novel.
        seed: of the split.

    Attributes:
        labels_: int32 (n,): clusters of the rows that were fitted; −1 is "other". `predict` may call a few of
            these rows otherwise, as it sees each of them alone.
        model_: the `ClusterModel`, to save.
        result_: all that the fit found.
        n_features_in_: numbers per row.
    """

    def __init__(
        self,
        *,
        parameters: Mapping[str, Any] | None = None,
        clusters: Count | None = None,
        normalize: bool = True,
        near: float = NEAR,
        novel_rate: float = NOVEL_RATE,
        seed: int = 0,
    ) -> None:
        self.parameters = parameters
        self.clusters = clusters
        self.normalize = normalize
        self.near = near
        self.novel_rate = novel_rate
        self.seed = seed

    def fit(self, X: Any, y: object = None) -> ImageClusterer:  # noqa: N803
        """Find the clusters of rows (n, d); `y` is ignored.

        Raises:
            ValueError: not numbers, not finite, too few rows or a row that is all zeros.
            FitError: no cluster was found.
        """
        rows = self._rows(X, reset=True)
        self.result_ = fit(
            rows,
            parameters=self.parameters,
            clusters=self.clusters,
            test_fraction=0.0,
            seed=self.seed,
            near=self.near,
            novel_rate=self.novel_rate,
        )
        self.model_ = self.result_.model
        self.labels_ = self.result_.labels
        return self

    def predict(self, X: Any) -> Ints:  # noqa: N803
        """int32 (n,): the cluster of each row; −1 is "other"."""
        check_is_fitted(self)
        return self.model_.predict(self._rows(X, reset=False)).labels

    def _rows(self, X: Any, *, reset: bool) -> Floats:  # noqa: N803
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=reset)
        if self.normalize:
            lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
            if (zero := np.flatnonzero(lengths == 0)).size:
                raise EmbeddingsError(
                    f"row {zero[0]} is all zeros: it has no direction that could be clustered"
                )
            rows = rows / lengths
        return np.asarray(rows, np.float32)
