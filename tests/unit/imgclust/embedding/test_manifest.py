"""The manifest of an embeddings folder: what was made by what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclust.embedding.embed import embed
from imgclust.embedding.manifest import MANIFEST, read_runs
from imgclust.embedding.store import read_embeddings, shards
from imgclust.embedding.stream import Embedded
from imgclust.errors import EmbeddingsError
from tests.support.fake_encoder import IDENTITY, FakeEncoder


def picture(folder: Path, name: str, grey: int) -> None:
    folder.mkdir(exist_ok=True)
    Image.new("L", (8, 8), grey).save(folder / name)


def test_each_run_is_recorded(tmp_path: Path) -> None:
    """Its encoder, options and versions, the shards that it wrote, what came of it; earlier runs stay."""
    picture(tmp_path / "pictures", "a.png", 10)
    (tmp_path / "pictures" / "cut.png").write_bytes((tmp_path / "pictures" / "a.png").read_bytes()[:40])
    out = tmp_path / "out"
    embed([tmp_path / "pictures"], out, FakeEncoder(), progress=False)
    picture(tmp_path / "pictures", "b.png", 20)
    embed([tmp_path / "pictures"], out, FakeEncoder(), progress=False, batch=7, engine="ray")
    assert json.loads((out / MANIFEST).read_text())["encoder"] == json.loads(json.dumps(IDENTITY.to_dict()))
    first, second = read_runs(out)
    assert (first["first_shard"], first["shards"], first["embedded"], first["present"]) == (0, 1, 1, 0)
    assert (second["first_shard"], second["shards"], second["embedded"], second["present"]) == (1, 1, 1, 1)
    assert len(shards(out)) == 2
    assert first["failed"] == {"decode-failed": 1}
    assert [run["options"]["engine"] for run in (first, second)] == ["this process", "ray"]
    assert second["options"]["batch"] == 7
    assert second["libraries"]["numpy"] == np.__version__


def test_a_run_that_ends_early_is_not_complete(tmp_path: Path) -> None:
    """What it wrote stays, and its record says that there may be more."""
    picture(tmp_path / "pictures", "a.png", 10)

    def breaks(found, target):  # type: ignore[no-untyped-def]
        (item,) = found
        yield [Embedded(item, np.array([1, 0], np.float32), 8, 8, "0" * 64)]
        raise RuntimeError("the cluster is gone")

    with pytest.raises(RuntimeError):
        embed([tmp_path / "pictures"], tmp_path / "out", FakeEncoder(), progress=False, outcomes=breaks)
    (run,) = read_runs(tmp_path / "out")
    assert run["complete"] is False
    assert len(read_embeddings(tmp_path / "out")) == 1
    embed([tmp_path / "pictures"], tmp_path / "out", FakeEncoder(), progress=False)
    assert [run["complete"] for run in read_runs(tmp_path / "out")] == [False, True]


def test_a_damaged_manifest_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[")
    with pytest.raises(EmbeddingsError, match=r"manifest\.json' cannot be read: .*; remove it"):
        embed([tmp_path], tmp_path, FakeEncoder(), progress=False)
