"""A pair that cuML fitted is frozen as one of umap-learn and hdbscan: by objects of the same attributes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import hdbscan
import numpy as np
import pytest

from imgclust.errors import ModelError
from imgclust.model.model import ClusterModel
from tests.support.fitted_stand_ins import OnDevice, umap_like
from tests.support.frozen_pair import embeddings

ROWS, CLOUD = embeddings(240, 24, 4, seed=5)
POINTS = (np.stack([CLOUD * 5, CLOUD, -CLOUD], 1) + np.random.default_rng(1).normal(size=(240, 3))).astype(
    "f4"
)


class CumlArray(OnDevice):
    def to_output(self, kind: str) -> np.ndarray:
        assert kind == "numpy"
        return self._array


def cumls(name: str, attributes: dict[str, Any]) -> Any:
    made = type(name, (), {"__module__": f"cuml.{name.lower()}"})()
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


def clusterer() -> hdbscan.HDBSCAN:
    return hdbscan.HDBSCAN(min_cluster_size=12, min_samples=4, prediction_data=True).fit(POINTS)


def pair(**others: Any) -> tuple[Any, Any]:
    """As cuML has them: without `densmap`, `unique`, `output_metric`; `prediction_data` is a flag."""
    plain = vars(umap_like(ROWS, POINTS))
    for missing in ("densmap", "unique", "output_metric", "_sparse_data"):
        del plain[missing]
    plain |= {"embedding_": OnDevice(plain["embedding_"]), "_raw_data": CumlArray(plain["_raw_data"])}
    found = clusterer()
    names = (
        "min_cluster_size", "min_samples", "alpha", "cluster_selection_method", "cluster_selection_epsilon",
        "max_cluster_size", "allow_single_cluster", "metric", "condensed_tree_", "prediction_data_",
    )  # fmt: skip
    attributes = {name: getattr(found, name) for name in names} | {
        "labels_": OnDevice(found.labels_.astype(np.int64)),
        "probabilities_": OnDevice(found.probabilities_.astype(np.float32)),
        "_raw_data": CumlArray(POINTS),
        "prediction_data": True,
    }
    return cumls("UMAP", plain), cumls("HDBSCAN", attributes | others)


def test_it_is_the_model_of_the_same_arrays() -> None:
    """Array by array, and so its predictions."""
    expected = ClusterModel.from_fitted(umap_like(ROWS, POINTS), clusterer())
    found = ClusterModel.from_fitted(*pair())
    assert dict(found.parameters) == dict(expected.parameters)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)
    np.testing.assert_array_equal(found.predict(ROWS).labels, expected.predict(ROWS).labels)


def test_l2_is_euclidean() -> None:
    assert ClusterModel.from_fitted(*pair(metric="l2")).parameters["hdbscan"]["metric"] == "euclidean"


def test_what_cannot_be_frozen_is_refused() -> None:
    """With the sentences that there are for the others."""
    reducer, found = pair()
    with pytest.raises(ModelError, match="prediction_data=True"):
        ClusterModel.from_fitted(reducer, pair(prediction_data=False)[1])
    with pytest.raises(ModelError, match="the HDBSCAN is not fitted"):
        ClusterModel.from_fitted(reducer, cumls("HDBSCAN", {}))
    with pytest.raises(ModelError, match="the UMAP is not fitted"):
        ClusterModel.from_fitted(cumls("UMAP", {}), found)
    tree = found.condensed_tree_._raw_tree.copy()
    inner = tree["child_size"] > 1
    tree["child"][inner], tree["parent"][inner] = tree["parent"][inner], tree["child"][inner].copy()
    with pytest.raises(ModelError, match="not numbered from the root down"):
        ClusterModel.from_fitted(reducer, pair(condensed_tree_=SimpleNamespace(_raw_tree=tree))[1])
