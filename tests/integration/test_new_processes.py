"""A model in other processes than the one that fitted it: it answers the same, and loads little."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from imgclust.embedding.store import EmbeddingsWriter
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.types import Prediction
from tests.support.fitted import ENCODER, fitted, grouped
from tests.support.frozen_pair import embeddings, frozen_pair
from tests.support.predicting import predicted


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_another_process_predicts_the_same(method: str) -> None:
    """However it begins, and whatever this process has predicted before."""
    model, rows = fitted().model, grouped(5)[0][:30]
    expected = predicted(model, rows)
    with ProcessPoolExecutor(1, get_context(method)) as processes:
        assert np.array_equal(processes.submit(predicted, model, rows).result(timeout=120), expected)


def test_loading_and_predicting_load_no_fitting_libraries(tmp_path: Path) -> None:
    """umap, hdbscan and pynndescent compile for seconds: what only predicts never sees them, in Python
    and as a command."""
    folder, rows = tmp_path / "model", grouped(each=2)[0]
    fitted().model.save(folder)
    np.save(tmp_path / "rows.npy", rows)
    with EmbeddingsWriter(tmp_path / "embeddings", ENCODER) as writer:
        for i, row in enumerate(rows):
            writer.append(id=f"{i}", source="", embedding=row, width=1, height=1, sha256=f"{i:064x}")
    argv = ["predict", str(folder), str(tmp_path / "embeddings"), "-o", str(tmp_path / "tags.csv")]
    code = (
        "import sys, numpy as np; from imgclust import ClusterModel; from imgclust.cli import arguments; "
        f"m = ClusterModel.load({str(folder)!r}); m.predict(np.load({str(tmp_path / 'rows.npy')!r})); m.map; "
        f"assert arguments.main({argv}) == 0; "
        "print([x for x in ('umap', 'hdbscan', 'pynndescent', 'numba') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert len((tmp_path / "tags.csv").read_text().splitlines()) == len(rows) + 1


def test_a_predictor_answers_the_same(tmp_path: Path) -> None:
    """Bit for bit the same after a save and a load, in a process with no HOME and other thread counts."""
    arrays, params = frozen_pair()
    rows, cloud = embeddings(500, 24, 5, seed=0)
    rows = np.concatenate([rows[cloud >= 0][:50], rows[cloud < 0][:46]])
    here = FrozenPredictor(arrays, params, threads=2).predict(rows)
    safetensors.numpy.save_file({**arrays, "rows": rows}, tmp_path / "arrays.safetensors")
    script = f"""
        import numpy as np, safetensors.numpy, sys
        from imgclust.predictor.predictor import FrozenPredictor
        arrays = safetensors.numpy.load_file({str(tmp_path / "arrays.safetensors")!r})
        found = FrozenPredictor(arrays, {params!r}).predict(arrays.pop("rows"))
        np.savez({str(tmp_path / "found.npz")!r}, **{{n: getattr(found, n) for n in found.__slots__}})
        print(sorted(set(sys.modules) & {{"umap", "hdbscan", "pynndescent", "numba", "sklearn"}}))
    """
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", "the predictor must load none of these"
    with np.load(tmp_path / "found.npz") as found:
        for field in dataclasses.fields(Prediction):
            assert found[field.name].tobytes() == getattr(here, field.name).tobytes(), field.name
