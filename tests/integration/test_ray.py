"""`embed` and `predict` on a Ray of this machine: two actors, a run that is killed, and one that goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgclust.cli.arguments import main
from imgclust.embedding.embed import FAILED, embed
from imgclust.embedding.encoder import TorchEncoder
from imgclust.embedding.store import read_embeddings, shards
from imgclust.engines import ray_data, runs
from imgclust.engines.ray_data import Workers
from imgclust.engines.steps import EmbedOptions
from imgclust.model.model import ClusterModel
from imgclust.tagging.files import write_rows
from imgclust.tagging.rows import predict_embeddings
from tests.support.fitted_stand_ins import umap_like
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra `ray`: pip install 'imgclust[ray]'"),
]

IMAGES = 96


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray of this machine, and its address."""
    import ray

    context = ray.init(
        num_cpus=4, include_dashboard=False, object_store_memory=120_000_000, log_to_driver=False
    )
    ray_data.connected()
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, clipart: Path) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    files = sorted(f for f in clipart.rglob("*") if f.suffix in (".png", ".jpg", ".webp"))
    for number, file in enumerate(files[:: len(files) // IMAGES][:IMAGES]):
        (folder / f"{number:03d}{file.suffix}").write_bytes(file.read_bytes())
    (folder / "048 cut.png").write_bytes(sorted(folder.glob("*.png"))[0].read_bytes()[:100])
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, pictures: Path, mini: TorchEncoder) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    embed([pictures], folder, mini, progress=False)
    return folder


@pytest.fixture(scope="module")
def model(alone: Path) -> ClusterModel:
    """Of the pictures' embeddings, at made-up places."""
    import hdbscan

    found = read_embeddings(alone)
    rng = np.random.default_rng(0)
    points = (rng.integers(4, size=(len(found), 1)) * 5 + rng.normal(size=(len(found), 3))).astype(np.float32)
    clusterer = hdbscan.HDBSCAN(min_cluster_size=8, min_samples=3, prediction_data=True).fit(points)
    pair = umap_like(found.vectors, points), clusterer
    return ClusterModel.from_fitted(*pair, encoder=found.identity, ids=found.ids)


BEGINS = """
import itertools, sys
from pathlib import Path
from imgclust.embedding.embed import embed
from imgclust.embedding.encoder import load_encoder
from imgclust.engines import ray_data, runs
from imgclust.engines.steps import EmbedOptions
ray_data.connected()
encoder = load_encoder("mini", device="cpu")
hours = itertools.count(step=3600)   # so that each batch is written at once
embed([sys.argv[1]], sys.argv[2], encoder, progress=False, clock=lambda: next(hours),
      outcomes=runs.outcomes_on_ray(
          EmbedOptions(encoder.identity), ray_data.Workers(2), part_rows=24, block_rows=8))
"""


def test_a_killed_run_goes_on(cluster: str, pictures: Path, alone: Path, tmp_path: Path) -> None:
    """Killed after its first shard, and run again by the command: what was done is not done twice, and the
    embeddings are those of a run alone, bit for bit; what failed is listed."""
    out = tmp_path / "out"
    environment = {**os.environ, "RAY_ADDRESS": cluster, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, "-c", BEGINS, str(pictures), str(out)], env=environment)
    try:
        wait_for("the first shard", lambda: shards(out) or run.poll() is not None)
        assert run.poll() is None, "it ended before it could be killed"
    finally:
        run.kill()
        run.wait()
    before = shards(out)
    done = len(read_embeddings(out))
    assert 0 < done < IMAGES
    command = ["embed", str(pictures), "-o", str(out), "--encoder", "mini", "--engine", "ray", "--quiet"]
    assert main(command) == 0
    assert shards(out)[: len(before)] == before
    expected, found = read_embeddings(alone), read_embeddings(out)
    assert found.ids == expected.ids
    assert found.vectors.tobytes() == expected.vectors.tobytes()
    for column in ("sha256", "sources", "attributes"):
        assert getattr(found, column) == getattr(expected, column)
    assert found.hashes.tolist() == expected.hashes.tolist()
    assert (out / FAILED).read_text() == (alone / FAILED).read_text()


class Stopped(Exception):
    pass


def parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def rows_in(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in parts_in(folder)])


@pytest.fixture(scope="module")
def expected(alone: Path, model: ClusterModel, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    path = tmp_path_factory.mktemp("expected") / "tags.parquet"
    write_rows(predict_embeddings(model, alone), path)
    return pq.read_table(path)


def test_predictions_go_on_part_by_part(
    cluster: str, pictures: Path, model: ClusterModel, expected: pa.Table, tmp_path: Path
) -> None:
    """Stopped in the second part and run again: the first is not made anew, and the rows are a lone run's."""
    assert model.encoder is not None
    folder = tmp_path / "tags"
    predict = partial(
        runs.predict_on_ray, model, [str(pictures)], folder, EmbedOptions(model.encoder), Workers(2),
        skipped=Counter(), part_rows=60, block_rows=15, batch_rows=30,
    )  # fmt: skip

    def stop(_: int) -> None:
        if list(folder.glob("part-*.json")):
            raise Stopped

    with pytest.raises(Stopped):
        predict(advance=stop)
    (first,) = parts_in(folder)
    made = first.stat().st_mtime_ns
    parts = predict()
    assert parts.present == pq.read_metadata(first).num_rows
    assert first.stat().st_mtime_ns == made
    assert rows_in(folder).equals(expected)
    assert dict(parts.failed) == {"decode-failed": 1}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["made_by"]["model"] == model.version
    assert (manifest["parts"], manifest["rows"]) == (2, IMAGES)


def test_the_command_predicts_embeddings(
    cluster: str, alone: Path, model: ClusterModel, expected: pa.Table, tmp_path: Path
) -> None:
    """Into a folder; a second time there is nothing to do."""
    model.save(tmp_path / "model")
    options = ["-o", str(tmp_path / "tags"), "--engine", "ray"]
    command = ["predict", str(tmp_path / "model"), str(alone), *options]
    assert main(command) == 0
    assert rows_in(tmp_path / "tags").equals(expected)
    (part,) = parts_in(tmp_path / "tags")
    made = part.stat().st_mtime_ns
    assert main(command) == 0
    assert part.stat().st_mtime_ns == made
