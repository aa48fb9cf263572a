"""`embed` and `predict` on a Ray of two nodes: runs and actors that are killed, a codec that crashes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgclust.cli.arguments import main
from imgclust.embedding.embed import FAILED, EmbedSummary, embed
from imgclust.embedding.store import Embeddings, read_embeddings, shards
from imgclust.engines import ray_data, runs
from imgclust.engines.ray_data import Workers
from imgclust.model.model import ClusterModel
from imgclust.tagging.files import write_rows
from imgclust.tagging.rows import predict_embeddings
from tests.support.fake_encoder import IDENTITY, FakeEncoder
from tests.support.fitted_stand_ins import umap_like
from tests.support.light_steps import CRASH, LightOptions
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra `ray`: pip install 'imgclust[ray]'"),
]

IMAGES = 120  # what takes long is to start actors


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes on this machine, and the address of the first."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))  # the nodes' workers import what this test sends them
        # an idle process of a node is ended after a second, and the next step starts another one
        patch.setenv("RAY_idle_worker_killing_time_threshold_ms", "600000")
        node = {"num_cpus": 2, "object_store_memory": 100_000_000, "include_log_monitor": False}
        nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        nodes.add_node(**node)
        ray.init(address=nodes.address, log_to_driver=False)
        ray_data.connected()
        yield nodes.address
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, clipart: Path) -> Path:
    """With one that is cut off."""
    folder = tmp_path_factory.mktemp("pictures")
    files = sorted(f for f in clipart.rglob("*") if f.suffix in (".png", ".jpg", ".webp"))
    for number, file in enumerate(files[:: len(files) // IMAGES][:IMAGES]):
        (folder / f"{number:03d}{file.suffix}").write_bytes(file.read_bytes())
    (folder / "048 cut.png").write_bytes(sorted(folder.glob("*.png"))[0].read_bytes()[:100])
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    embed([pictures], folder, FakeEncoder(), progress=False)
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


def embed_on_ray(pictures: Path, out: Path, options: LightOptions, workers: Workers) -> EmbedSummary:
    outcomes = runs.outcomes_on_ray(options, workers, part_rows=300, block_rows=20)
    return embed([pictures], out, FakeEncoder(), progress=False, outcomes=outcomes)


def assert_same(found: Embeddings, expected: Embeddings) -> None:
    """Bit for bit."""
    assert found.ids == expected.ids
    assert found.vectors.tobytes() == expected.vectors.tobytes()
    for column in ("sha256", "sources", "attributes"):
        assert getattr(found, column) == getattr(expected, column)
    assert found.hashes.tolist() == expected.hashes.tolist()


def test_an_actor_that_is_killed_and_a_codec_that_crashes(
    cluster: str, pictures: Path, alone: Path, tmp_path: Path
) -> None:
    """In the middle of a run on both nodes: Ray gives its images to another actor, and all embeddings are
    there, once. The picture that crashes its codec fails alone, and ends no actor."""
    crashing = pictures / "zzz.png"
    crashing.write_bytes(sorted(pictures.glob("*.png"))[0].read_bytes() + CRASH)
    (actors := tmp_path / "actors").mkdir()
    options = LightOptions(IDENTITY, actors=str(actors), killed=str(tmp_path / "killed"))
    try:
        summary = embed_on_ray(pictures, tmp_path / "out", options, Workers(2))
    finally:
        crashing.unlink()
    assert (tmp_path / "killed").exists()
    assert_same(read_embeddings(tmp_path / "out"), read_embeddings(alone))
    assert len(shards(tmp_path / "out")) == 7, "each block was written by the actor that had it"
    assert not list((tmp_path / "out").glob("*.part"))
    assert summary.failed == {"decode-failed": 2}
    folders = alone, tmp_path / "out"
    before, now = (list(csv.DictReader((f / FAILED).read_text().splitlines())) for f in folders)
    assert now[:-1] == before
    assert "died or hung, and did so again" in now[-1]["message"]
    started = [path.name.split() for path in actors.iterdir()]
    assert len({node for node, _ in started}) == 2
    assert len(started) <= 3, "one in the place of the one that was killed; a codec must not end any"


BEGINS = """
import sys
from imgclust.embedding.embed import embed
from imgclust.engines import ray_data, runs
from tests.support.fake_encoder import IDENTITY, FakeEncoder
from tests.support.light_steps import LightOptions
ray_data.connected()
embed([sys.argv[1]], sys.argv[2], FakeEncoder(), progress=False,
      outcomes=runs.outcomes_on_ray(LightOptions(IDENTITY), ray_data.Workers(1), part_rows=60, block_rows=10))
"""


def test_a_killed_run_goes_on(cluster: str, pictures: Path, alone: Path, tmp_path: Path) -> None:
    """Killed after its first shard, and run again: what was done is not done twice, and the embeddings are
    those of a run alone, bit for bit; what failed is listed; the manifest names both runs."""
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
    summary = embed_on_ray(pictures, out, LightOptions(IDENTITY), Workers(1))
    assert (summary.present, summary.embedded) == (done, IMAGES - done)
    assert shards(out)[: len(before)] == before
    assert_same(read_embeddings(out), read_embeddings(alone))
    assert (out / FAILED).read_text() == (alone / FAILED).read_text()


def parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def rows_in(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in parts_in(folder)])


@pytest.fixture(scope="module")
def expected(alone: Path, model: ClusterModel, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    path = tmp_path_factory.mktemp("expected") / "tags.parquet"
    write_rows(predict_embeddings(model, alone), path)
    return pq.read_table(path)


def test_pictures_are_predicted(
    cluster: str, pictures: Path, model: ClusterModel, expected: pa.Table, tmp_path: Path
) -> None:
    """By actors that embed and actors that predict: the rows are a lone run's. How a run goes on part by part
    is shown without Ray."""
    parts = runs.predict_on_ray(
        model, [str(pictures)], tmp_path, LightOptions(IDENTITY), Workers(1), skipped=Counter(),
        block_rows=40, batch_rows=60,
    )  # fmt: skip
    assert rows_in(tmp_path).equals(expected)
    assert dict(parts.failed) == {"decode-failed": 1}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["made_by"]["model"] == model.version
    assert (manifest["parts"], manifest["rows"]) == (1, IMAGES)


def test_the_command_predicts_embeddings(
    cluster: str, alone: Path, model: ClusterModel, expected: pa.Table, tmp_path: Path
) -> None:
    """Into a folder; a second time there is nothing to do."""
    model.save(tmp_path / "model")
    options = ["-o", str(tmp_path / "tags"), "--engine", "ray", "--engine-workers", "1"]
    command = ["predict", str(tmp_path / "model"), str(alone), *options]
    assert main(command) == 0
    assert rows_in(tmp_path / "tags").equals(expected)
    (part,) = parts_in(tmp_path / "tags")
    made = part.stat().st_mtime_ns
    assert main(command) == 0
    assert part.stat().st_mtime_ns == made
