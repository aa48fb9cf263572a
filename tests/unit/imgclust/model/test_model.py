"""The model folder: what is written is what is read, and nothing else is believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from imgclust.errors import EmbeddingsError, ModelError
from imgclust.model import folder as layout
from imgclust.model.model import ClusterModel
from tests.support import fitted
from tests.support.fitted_stand_ins import umap_like
from tests.support.frozen_pair import unit_half


@pytest.fixture(scope="module")
def model() -> ClusterModel:
    model = fitted.fitted().model
    pictures = {model.clusters[0].exemplars[0]: b"RIFF one", model.clusters[1].exemplars[0]: b"RIFF two"}
    return dataclasses.replace(model, thumbnails=pictures).renamed([f"name {c.id}" for c in model.clusters])


@pytest.fixture
def folder(model: ClusterModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[dict], None], *, version: bool = True) -> None:
    """Change a manifest as an attacker would: with digests and version that match again."""
    manifest = json.loads((folder / layout.MANIFEST).read_bytes())
    for name in list(manifest["files"]):
        if (folder / name).is_file():
            manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change(manifest)
    if version:
        starts = manifest.get("taxonomy") == manifest.get("version")
        manifest["version"] = layout.version_of(manifest, starts_taxonomy=starts)
    (folder / layout.MANIFEST).write_text(json.dumps(manifest))


def test_what_is_saved_is_what_is_loaded(model: ClusterModel, folder: Path) -> None:
    """Every part of a model survives the folder, and predictions are the same bit for bit."""
    loaded = ClusterModel.load(folder)
    for field in ("encoder", "parameters", "clusters", "figures", "thumbnails", "libraries", "created"):
        assert getattr(loaded, field) == getattr(model, field), field
    assert (loaded.version, loaded.taxonomy) == (model.version, model.taxonomy)
    assert loaded.map.equals(model.map)
    rows, _ = fitted.grouped(seed=9, each=4)
    one, two = model.predict(rows), loaded.predict(rows)
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


def test_a_loaded_model_saves_itself_again(folder: Path, tmp_path: Path) -> None:
    """Load and save: the copy is the same version, file by file."""
    ClusterModel.load(folder).save(tmp_path / "copy")
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        assert (tmp_path / "copy" / file.relative_to(folder)).read_bytes() == file.read_bytes(), file.name


def test_the_version_is_what_the_layout_says(folder: Path) -> None:
    """Computed here by hand from the files: 12 hex digits over names, digests and the manifest."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    files = [
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"
    ]
    pairs = sorted((name, hashlib.sha256((folder / name).read_bytes()).hexdigest()) for name in files)
    rest = {key: value for key, value in manifest.items() if key not in ("version", "created")}

    def canonical(value: object) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    assert manifest["version"] == hashlib.sha256(canonical(pairs) + canonical(rest)).hexdigest()[:12]


def test_when_a_model_was_made_is_not_in_its_version(model: ClusterModel) -> None:
    """Two equal fits at different times are one version."""
    assert dataclasses.replace(model, created="1999-01-01T00:00:00Z").version == model.version


def test_renaming_is_a_new_version_of_the_same_taxonomy() -> None:
    """Cluster numbers keep their meaning; the names make another model."""
    first = fitted.fitted().model
    assert first.taxonomy == first.version
    second = first.renamed(["one", *[None] * (len(first.clusters) - 1)])
    assert second.version != first.version
    assert second.taxonomy == first.version
    assert (second.name(0), second.name(1), second.name(-1)) == ("one", None, None)
    third = second.renamed([None] * len(first.clusters))
    assert third.taxonomy == first.version


def test_a_folder_that_is_there_is_replaced_as_a_whole(model: ClusterModel, folder: Path) -> None:
    """A new model takes the old one's place, and nothing of the old one or of the way there is left."""
    (folder / "thumbnails" / "stray.webp").write_bytes(b"old")
    plain = dataclasses.replace(model, thumbnails={}, known_version=None)
    plain.save(folder)
    assert ClusterModel.load(folder).version == plain.version
    assert not (folder / "thumbnails").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_other_folders_are_left_alone(model: ClusterModel, tmp_path: Path) -> None:
    """A folder that holds something else is not replaced by a model."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"dear")
    with pytest.raises(ModelError, match="not a model folder"):
        model.save(tmp_path / "photos")
    assert (tmp_path / "photos" / "one.jpg").read_bytes() == b"dear"


FILES = ["arrays.safetensors", "clusters.json", "map.parquet", "thumbnails/00001.webp"]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_noticed(folder: Path, name: str) -> None:
    """One flipped bit in any file: refused, and the file is named."""
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"{re.escape(name)}' does not match the manifest"):
        ClusterModel.load(folder)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    """A file that is not there: refused, and the file is named."""
    (folder / name).unlink()
    with pytest.raises(ModelError, match=re.escape(name)):
        ClusterModel.load(folder)


def test_a_changed_manifest_is_noticed(folder: Path) -> None:
    """A figure polished by hand no longer matches the version."""
    rewrite(folder, lambda manifest: manifest["figures"].update(images=10**6), version=False)
    with pytest.raises(ModelError, match=r"manifest\.json' does not match its version"):
        ClusterModel.load(folder)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "thumbnails/../../x", "a\x00b", "C:\\x", "thumbnails/a/b", "", "."],
)  # fmt: skip
def test_names_that_lead_out_are_refused(folder: Path, name: str) -> None:
    """A manifest cannot make the loader look anywhere but into the folder."""
    rewrite(folder, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(ModelError, match="names a file that no model has"):
        ClusterModel.load(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.update(format=99), "format 99 is unknown"),
        (lambda m: m.pop("format"), "format None is unknown"),
        (lambda m: m.update(files={}), '"files" must name'),
        (lambda m: m["files"].pop("map.parquet"), '"files" must name'),
        (lambda m: m.pop("umap"), "not a model that this imgclust can read"),
        (lambda m: m.update(encoder={"name": "x"}), "not a model that this imgclust can read"),
        (lambda m: m.update(assignment={"score": 7}), "above 0 and at most 1"),
        (lambda m: m.update(assignment=None), "above 0 and at most 1"),
    ],
)
def test_manifests_that_make_no_sense_are_refused(folder: Path, change: Callable, text: str) -> None:
    """Consistent digests do not make a manifest a good one."""
    rewrite(folder, change)
    with pytest.raises(ModelError, match=text):
        ClusterModel.load(folder)


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], None]:
    def apply(arrays: dict) -> None:
        arrays[name] = change(arrays[name].copy())

    return apply


def put(index: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def apply(array: np.ndarray) -> np.ndarray:
        array.flat[index] = value
        return array

    return apply


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", put(3, 10**6)),
        ("labels", lambda a: a.astype(np.int64)),
        ("labels", lambda a: a[:-1]),
        ("cluster_nodes", put(0, 3)),
        ("cluster_nodes", put(0, 2**40)),
        ("tree_child", put(0, -5)),
        ("tree_child", put(0, 2**40)),
        ("tree_child", put(0, 7)),
        ("tree_parent", put(0, 0)),
        ("points", put(0, np.nan)),
        ("embeddings", put(0, np.inf)),
        ("core_distances", put(0, np.nan)),
        ("kd_order", put(0, 10**6)),
        ("kd_order", put(0, -1)),
        ("kd_order", lambda a: np.zeros_like(a)),
        ("codes", lambda a: a[:10]),
        ("attraction", lambda a: a[:10]),
        ("squares", put(0, np.nan)),
        ("middle", put(0, np.nan)),
        ("middle", lambda a: a[:-1]),
    ],
)
def test_arrays_that_point_outside_are_refused(folder: Path, name: str, change: Callable) -> None:
    """Numbers that would send a prediction out of its arrays are refused when the model is loaded."""
    arrays = safetensors.numpy.load_file(folder / layout.ARRAYS)
    changed(name, change)(arrays)
    safetensors.numpy.save_file(arrays, folder / layout.ARRAYS)
    rewrite(folder, lambda _: None)
    with pytest.raises(ModelError, match="array"):
        ClusterModel.load(folder)


def test_an_array_that_is_missing_is_named(folder: Path) -> None:
    """A model without one of its arrays is refused, and the array is named."""
    arrays = safetensors.numpy.load_file(folder / layout.ARRAYS)
    del arrays["core_distances"]
    safetensors.numpy.save_file(arrays, folder / layout.ARRAYS)
    rewrite(folder, lambda _: None)
    with pytest.raises(ModelError, match="'core_distances' is missing"):
        ClusterModel.load(folder)


def test_a_map_that_is_too_long_is_refused(folder: Path) -> None:
    """The map's rows are counted before they are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = layout.MAP_ROWS + 1
    table = pa.table({"id": ["x"] * n, "x": np.zeros(n), "y": np.zeros(n), "cluster": np.zeros(n, np.int32)})
    pq.write_table(table, folder / layout.MAP)
    rewrite(folder, lambda _: None)
    with pytest.raises(ModelError, match="20001 rows"):
        _ = ClusterModel.load(folder).map


def test_a_map_that_unpacks_to_too_much_is_refused(folder: Path) -> None:
    """A few kilobytes that unpack to 80 MB are refused before they are unpacked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = pa.array(["x" * 80_000] * 1000)
    zeros = np.zeros(1000, np.float32)
    table = pa.table({"id": ids, "x": zeros, "y": zeros, "cluster": np.zeros(1000, np.int32)})
    pq.write_table(table, folder / layout.MAP, compression="zstd", use_dictionary=False)
    assert (folder / layout.MAP).stat().st_size < 100_000
    rewrite(folder, lambda _: None)
    with pytest.raises(ModelError, match="unpacks to"):
        _ = ClusterModel.load(folder).map


def test_not_a_model_folder(tmp_path: Path) -> None:
    """A folder, a file, nothing at all: the error says that it is no model folder."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(ModelError, match="not a model folder"):
            ClusterModel.load(path)


def test_other_embeddings_are_refused(model: ClusterModel) -> None:
    """Another encoder, width, length, or a NaN: refused with what is wanted."""
    rows, _ = fitted.grouped(each=2)
    other = dataclasses.replace(fitted.ENCODER, name="other", weights="1" * 64)
    with pytest.raises(EmbeddingsError, match=r"from other .* was fitted on test .*--encoder test"):
        model.predict(rows, encoder=other)
    model.predict(rows, encoder=dataclasses.replace(fitted.ENCODER, name="another name for it"))
    with pytest.raises(EmbeddingsError, match=r"must be \(n, 24\)"):
        model.predict(rows[:, :10])
    with pytest.raises(EmbeddingsError, match="row 0 has length 2"):
        model.predict(rows * 2)
    with pytest.raises(EmbeddingsError, match="row 1 has length nan"):
        model.predict(np.where(np.arange(len(rows))[:, None] == 1, np.nan, rows))


def test_batches_change_nothing(model: ClusterModel) -> None:
    """Predictions in threes are the predictions at once, and progress counts the rows."""
    rows, _ = fitted.grouped(seed=3, each=3)
    told: list[int] = []
    one, two = model.predict(rows), model.predict(rows, batch=3, progress=told.append)
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))
    assert told == [3, 6, 9, 12, 15, 18]


def test_a_pair_fitted_elsewhere_can_be_frozen(tmp_path: Path) -> None:
    """umap-learn's and hdbscan's own objects become a model that predicts as the fit's own does."""
    reducer, clusterer, _ = fitted.fitted_pair()
    ids = [f"image {i}" for i in range(len(clusterer.labels_))]
    model = ClusterModel.from_fitted(reducer, clusterer, encoder=fitted.ENCODER, ids=ids)
    np.testing.assert_array_equal(model.labels_, clusterer.labels_)
    model.save(tmp_path / "model")
    loaded = ClusterModel.load(tmp_path / "model")
    rows, group = fitted.grouped(seed=8, each=5)
    found = loaded.predict(rows)
    assert (found.labels >= 0).mean() > 0.7
    for cluster in range(len(model.clusters)):
        assert len(set(group[found.labels == cluster])) == 1
    assert set(loaded.map["id"].to_pylist()) == set(ids)


def test_pairs_that_cannot_be_frozen_are_refused() -> None:
    """No prediction data, other points, rows that are not of unit length: each is said."""
    import hdbscan
    import umap

    reducer, clusterer, _ = fitted.fitted_pair()
    bare = hdbscan.HDBSCAN(min_cluster_size=8).fit(reducer.embedding_)
    with pytest.raises(ModelError, match="prediction_data=True"):
        ClusterModel.from_fitted(reducer, bare)
    other = hdbscan.HDBSCAN(min_cluster_size=8, prediction_data=True).fit(reducer.embedding_[:-1])
    with pytest.raises(ModelError, match="not fitted on this UMAP's embedding_"):
        ClusterModel.from_fitted(reducer, other)
    with pytest.raises(ModelError, match="call fit"):
        ClusterModel.from_fitted(umap.UMAP(), clusterer)
    with pytest.raises(ModelError, match="299 ids for 300"):
        ClusterModel.from_fitted(reducer, clusterer, ids=["x"] * 299)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.0, 0.4])
def test_a_cluster_that_is_everything(seed: int, epsilon: float) -> None:
    """`allow_single_cluster`: nine of ten fitted members are predicted to be in it and what the fit called
    "other" stays there, or the pair is refused; a lone cloud, two that are near, with and without epsilon."""
    import hdbscan

    rng = np.random.default_rng(seed)
    rows = unit_half(rng.normal(size=(240, 24)))
    centres = np.repeat([[0.0, 0, 0], [seed % 3, 0, 0]], 120, axis=0)
    points = (centres + 0.5 * rng.normal(size=(240, 3))).astype(np.float32)
    clusterer = hdbscan.HDBSCAN(
        min_cluster_size=15,
        min_samples=5,
        allow_single_cluster=True,
        cluster_selection_epsilon=epsilon,
        prediction_data=True,
    ).fit(points)
    assert clusterer.labels_.max() == 0
    try:
        model = ClusterModel.from_fitted(umap_like(rows, points), clusterer)
    except ModelError as error:
        assert re.search(r"only \d+% would be predicted.*allow_single_cluster", str(error))
        return
    members = clusterer.labels_ == 0
    assert (model.predict(rows[members]).labels == 0).mean() >= 0.9
    tree = model.predictor.tree.predict(points)
    assert (tree.labels == clusterer.labels_).mean() >= 0.9


def test_a_copied_folder_loads_anywhere(folder: Path, tmp_path: Path) -> None:
    """Nothing in a model folder depends on where it lies."""
    version = ClusterModel.load(folder).version
    shutil.move(folder, tmp_path / "elsewhere")
    assert ClusterModel.load(tmp_path / "elsewhere").version == version
