"""`fit --engine cuml`, by objects of cuML's attributes: nothing here has a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import hdbscan
import numpy as np
import pytest

from imgclust.cli.arguments import main
from imgclust.errors import FitError, ImgclustError
from imgclust.training.fit import fit
from tests.support.fitted import ENCODER, SMALL, fitted, grouped
from tests.support.fitted_stand_ins import OnDevice, umap_like

ROWS = grouped()[0]


class UMAP:
    """Puts rows where umap-learn put them in the fit that tests share."""

    def __init__(self, **parameters: Any) -> None:
        self._given = parameters

    def fit(self, rows: np.ndarray) -> UMAP:
        frozen = fitted().model
        np.testing.assert_array_equal(rows.astype(np.float16), frozen.arrays["embeddings"])
        attributes = vars(umap_like(rows, frozen.arrays["points"])) | frozen.parameters["umap"] | self._given
        vars(self).update(attributes, _n_neighbors=attributes["n_neighbors"])
        self._a, self._b = attributes["a"], attributes["b"]
        self.embedding_ = OnDevice(frozen.arrays["points"])
        return self


class HDBSCAN:
    """hdbscan's, with its arrays on a device."""

    def __init__(self, **parameters: Any) -> None:
        self._given = parameters

    def fit(self, points: np.ndarray) -> HDBSCAN:
        found = hdbscan.HDBSCAN(**self._given, core_dist_n_jobs=1).fit(points)
        names = ("alpha", "cluster_selection_epsilon", "allow_single_cluster", "condensed_tree_")
        vars(self).update({name: getattr(found, name) for name in names} | self._given)
        self.metric, self.prediction_data_ = "euclidean", found.prediction_data_
        self.labels_, self.probabilities_ = OnDevice(found.labels_), OnDevice(found.probabilities_)
        self._raw_data = OnDevice(points)
        return self


@pytest.fixture
def cuml(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed."""
    for name, attributes in {
        "cuml": {"__version__": "26.10.0"},
        "cuml.manifold": {"UMAP": UMAP},
        "cuml.cluster": {"HDBSCAN": HDBSCAN},
    }.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(UMAP, "__module__", "cuml.manifold.umap")
    monkeypatch.setattr(HDBSCAN, "__module__", "cuml.cluster.hdbscan")


@pytest.mark.usefixtures("cuml")
def test_it_is_the_model_of_the_same_arrays() -> None:
    """The same parameters reach cuML, and the model says who fitted it."""
    expected = fitted().model
    found = fit(ROWS, encoder=ENCODER, parameters=SMALL, seed=1, engine="cuml").model
    assert dict(found.parameters) == dict(expected.parameters)
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)
    assert found.libraries == {**expected.libraries, "cuml": "26.10.0"}


def test_without_cuml_it_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is read."""
    with pytest.raises(ImgclustError, match=r"pip install 'imgclust\[gpu\]'"):
        fit(tmp_path / "nowhere", engine="cuml")
    assert main(["fit", str(tmp_path / "nowhere"), "-o", str(tmp_path / "m"), "--engine", "cuml"]) == 1
    assert "pip install 'imgclust[gpu]'" in capsys.readouterr().err


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(FitError, match="unknown engine 'tpu'; there are cpu and cuml"):
        fit(ROWS, engine="tpu")
