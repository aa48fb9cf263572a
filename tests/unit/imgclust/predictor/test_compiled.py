"""The predictor in C: the bits of the predictor in numpy, for every step and every model."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import shutil
import subprocess
import sysconfig
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.predictor import compiled
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.predictor.prepare import LARGEST
from imgclust.types import Prediction
from tests.support.frozen_pair import embeddings, frozen_pair
from tests.support.paths import ROOT

MODELS: dict[str, dict[str, object]] = {
    "plain": {},
    "cosine": {"metric": "cosine", "n_neighbors": 15},
    "strong push": {"repulsion_strength": 2.0, "negative_sample_rate": 15},
    "restless": {"repulsion_strength": 8.0, "negative_sample_rate": 40},
    "local": {"local_connectivity": 2.5, "n_epochs": 300, "learning_rate": 0.5},
    "local below one": {"local_connectivity": 1.5, "n_neighbors": 7},
}


@pytest.fixture(scope="module", autouse=True)
def built(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The library as it is installed, or built here with the same sources and flags."""
    if compiled.library() is not None:
        return
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (extension,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    target = tmp_path_factory.mktemp("kernels") / "_kernels.so"
    sources = [str(ROOT / source) for source in extension["sources"]]
    headers = f"-I{sysconfig.get_path('include')}"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        headers,
        *extension["extra-compile-args"],
        *sources,
        "-o",
        target,
        "-lm",
    ]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(target))
    compiled.library = functools.cache(lambda: library)


@functools.cache
def pair(name: str, n: int) -> tuple[FrozenPredictor, FrozenPredictor]:
    """The same model in C and in numpy."""
    arrays, params = frozen_pair(n=n, seed=3, **MODELS[name])
    in_c = FrozenPredictor(arrays, params, threads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "library", lambda: None)
        in_numpy = FrozenPredictor(arrays, params, threads=2)
    assert in_c._kernels is not None
    assert in_numpy._kernels is None
    return in_c, in_numpy


@functools.cache
def asked() -> np.ndarray:
    return embeddings(120, 24, 5, seed=3)[0]


def assert_equal(got: Prediction, expected: Prediction) -> None:
    for field in dataclasses.fields(Prediction):
        assert getattr(got, field.name).tobytes() == getattr(expected, field.name).tobytes(), field.name


@pytest.mark.parametrize("n", [150, 2500])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=5, deadline=None)
@given(rows=st.lists(st.integers(0, 119), min_size=1, max_size=90))
def test_same_bits_as_numpy(name: str, n: int, rows: list[int]) -> None:
    """Every field of every prediction, for any batch: settled points and others, trained rows included."""
    in_c, in_numpy = pair(name, n)
    before = in_c.unsettled - in_numpy.unsettled
    assert_equal(in_c.predict(asked()[rows]), in_numpy.predict(asked()[rows]))
    assert in_c.unsettled - in_numpy.unsettled == before


def test_wide_rows_and_many_cells() -> None:
    """Rows of whole registers and a rest, and cells that from none to all of a batch read: codes are loaded
    once for several queries."""
    arrays, params = frozen_pair(n=2500, dim=136, clusters=40, seed=3)
    in_c = FrozenPredictor(arrays, params, threads=1)
    assert in_c._kernels is not None
    assert len(arrays["cell_centres"]) > 16
    queries = embeddings(60, 136, 40, seed=3)[0]
    for m in (*range(1, 10), 60):
        expected, found = in_c._neighbours.search(queries[:m]), in_c._kernels.search(queries[:m])
        for field in dataclasses.fields(expected):
            assert getattr(found, field.name).tobytes() == getattr(expected, field.name).tobytes(), field.name


def test_training_rows() -> None:
    """Distances of 0, where a place is a training image's own."""
    in_c, in_numpy = pair("plain", 500)
    rows = frozen_pair(n=500, seed=3)[0]["embeddings"][:80].astype(np.float32)
    assert_equal(in_c.predict(rows), in_numpy.predict(rows))


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0, 1e-7, 0.3, 1]),
    others=st.dictionaries(st.integers(0, 23), st.floats(-1.25, 1.25, width=32), max_size=3),
)
def test_what_is_no_embedding_is_found(seed: int, size: float, others: dict[int, float]) -> None:
    """The check in C refuses what the one in numpy refuses, and nothing else: halves and a few others."""
    in_c = pair("plain", 500)[0]
    rows = (size * np.random.default_rng(seed).uniform(-1.25, 1.25, (1, 24))).astype(np.float16)
    rows = rows.astype(np.float32)
    rows[0, list(others)] = list(others.values())
    half = rows.astype(np.float16).astype(np.float32)
    good = bool(rows.any() and np.abs(rows).max() <= LARGEST and (half == rows).all())
    assert in_c._kernels is not None
    assert in_c._kernels.are_embeddings(rows, LARGEST) is good


def test_every_structure_has_the_size_that_c_gives_it() -> None:
    """The fields in compiled.py are those of kernels.h, in their order."""
    header = (Path(compiled.__file__).parent / "kernels" / "kernels.h").read_text()
    for kind in (compiled._Tree, compiled._Umap, compiled._Ivf, compiled._Soft):
        body = header[: header.index(f"}} {kind.__name__[1:]};")].rpartition("typedef struct {")[2]
        code = [line.split("/*")[0].strip() for line in body.splitlines()]
        names = [name for line in code for name in line.rstrip(";").split(",") if name.strip(" ;")]
        declared = [name.split()[-1].strip("*") for name in names]
        assert declared == [name for name, _ in kind._fields_], kind.__name__


def test_python_goes_on_beside_it() -> None:
    """A call holds no lock: a thread of Python gets on with its work while places are found."""
    kernels = pair("plain", 2500)[0]._kernels
    assert kernels is not None
    near = kernels.search(np.tile(asked(), (8, 1)))
    begun, ended = threading.Event(), threading.Event()

    def transform() -> None:
        begun.set()
        kernels.transform(near)
        ended.set()

    thread = threading.Thread(target=transform)
    thread.start()
    turns = 0
    while not ended.is_set():
        turns += begun.is_set()
    thread.join()
    assert turns > 1000, "holding the lock, the call leaves a turn or two"
