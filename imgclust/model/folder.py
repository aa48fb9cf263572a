"""What a model folder holds: its files, its arrays, its version. Reading and writing share it.

A model folder may come from anywhere, so nothing in it is believed: names are checked before a path is made
of them, sizes before memory is taken, digests before a byte is used, and nothing in it can run code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from imgclust.errors import ModelError

FORMAT = 4  # 2 and 3 have no "middle": a release that knows only them would find fewer images novel
FORMAT_OF_EDITS = 5  # of folders with edits.json: a release that knows only 4 would ignore the edits
FORMAT_OF_ASSIGNMENT = 6  # of models that assign what is between clusters: others would leave it in "other"
FORMATS = (2, 3, FORMAT, FORMAT_OF_EDITS, FORMAT_OF_ASSIGNMENT)
MAX_NUMBER = 2**31 - 2
MANIFEST, ARRAYS, CLUSTERS, MAP = "manifest.json", "arrays.safetensors", "clusters.json", "map.parquet"
EDITS = "edits.json"
THUMBNAILS = "thumbnails"
REQUIRED = (ARRAYS, CLUSTERS, MAP)
MAP_ROWS = 20_000
EXEMPLARS = 24  # typical pictures of each cluster

_NAME = re.compile(r"(?:thumbnails/)?[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
MAX_JSON = 64 << 20  # bytes; 1,000 clusters with 24 exemplars each are 3 MB
MAX_FILES = 100_000
MAX_THUMBNAIL = 1 << 20  # bytes; a WebP of 128 px has 2 to 8 thousand

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class ArraySpec:
    """dtype and axes of an array: axes of one name have one length throughout the file."""

    dtype: str
    axes: tuple[str, ...]


# n training rows, D numbers per embedding, d per point, t rows of the condensed tree, k clusters
SPECS: Mapping[str, ArraySpec] = {
    "embeddings": ArraySpec("float16", ("n", "D")),
    "points": ArraySpec("float32", ("n", "d")),
    "core_distances": ArraySpec("float64", ("n",)),
    "labels": ArraySpec("int32", ("n",)),
    "probabilities": ArraySpec("float32", ("n",)),
    "tree_parent": ArraySpec("int64", ("t",)),
    "tree_child": ArraySpec("int64", ("t",)),
    "tree_lambda": ArraySpec("float64", ("t",)),
    "tree_size": ArraySpec("int64", ("t",)),
    "cluster_nodes": ArraySpec("int64", ("k",)),
}

# what `imgclust.predictor.prepare.prepare` derives from them: N ≥ n and E ≥ D are padded, K = C - 1 cells, T
# entries of a force's table; `imgclust.predictor.predictor` checks what points into what
PREPARED: Mapping[str, ArraySpec] = {
    "kd_order": ArraySpec("int32", ("n",)),
    "codes": ArraySpec("int8", ("N", "E")),
    "code_rows": ArraySpec("int32", ("N",)),
    "code_scale": ArraySpec("float64", ("one",)),
    "cell_starts": ArraySpec("int32", ("C",)),
    "cell_centres": ArraySpec("int8", ("K", "E")),
    "cell_margin": ArraySpec("int32", ("one",)),
    "squares": ArraySpec("float64", ("n",)),
    "attraction": ArraySpec("float32", ("T",)),
    "repulsion": ArraySpec("float32", ("T",)),
    "knn_target": ArraySpec("float64", ("one",)),
    "middle": ArraySpec("float16", ("D",)),
}
SINCE_FORMAT_4 = frozenset({"middle"})
# of a model that continues a taxonomy, since its numbers keep their meaning; see `imgclust.model.meaning`
CONTINUING: Mapping[str, ArraySpec] = {
    "births": ArraySpec("float16", ("k", "D")),
    "birth_cosines": ArraySpec("float32", ("k", "two")),
}


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values, equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def version_of(manifest: Mapping[str, Any], *, starts_taxonomy: bool) -> str:
    """The model's version: 12 hex digits that name its content.

    SHA-256 over the sorted (name, SHA-256) pairs of the other files and the manifest as canonical JSON
    without `version`, `created` and, for a model that starts a taxonomy, `taxonomy`.
    """
    left_out = {"version", "created"} | ({"taxonomy"} if starts_taxonomy else set())
    content = {key: value for key, value in manifest.items() if key not in left_out}
    digest = hashlib.sha256(canonical(sorted(manifest["files"].items())))
    digest.update(canonical(content))
    return digest.hexdigest()[:12]


def in_order(numbers: Sequence[int] | Array) -> bool:
    """Whether clusters are numbered 0..k-1, as the arrays count them."""
    return bool(np.array_equal(numbers, np.arange(len(numbers))))


def check_numbers(
    numbers: Sequence[int], used: object, k: int, *, of: str = "cluster", used_as: str = "numbers_used"
) -> None:
    """Refuse numbers of clusters or groups that are not k different ones below `used` (None: not told).

    Raises:
        ModelError: naming what is wrong.
    """
    if len(numbers) != k:
        raise ModelError(f"{CLUSTERS} lists {len(numbers)} clusters, {ARRAYS} has {k}")
    if len(set(numbers)) != k or any(not 0 <= number <= MAX_NUMBER for number in numbers):
        raise ModelError(f"{CLUSTERS}: {of}s must have different numbers from 0 to {MAX_NUMBER}")
    if used is not None and not (type(used) is int and max(numbers, default=-1) < used <= MAX_NUMBER):
        raise ModelError(f'{MANIFEST}: "{used_as}" must be above all {of} numbers, is {used!a:.40}')


def check_arrays(arrays: Mapping[str, Array]) -> None:
    """Refuse arrays that are not what `SPECS` and `PREPARED` say or that point outside each other.

    Raises:
        ModelError: naming the array.
    """
    lengths: dict[str, int] = {"one": 1, "two": 2}
    for name, spec in {**SPECS, **PREPARED, **CONTINUING}.items():
        if name in SINCE_FORMAT_4 | CONTINUING.keys() and name not in arrays:
            continue
        _check_spec(name, arrays.get(name), spec, lengths)
        _require(
            arrays[name].dtype.kind != "f" or name == "tree_lambda" or _finite(arrays[name]),
            name,
            "must be finite",
        )
    _check_tree(arrays, lengths["n"], lengths["k"])
    order, n = arrays["kd_order"], lengths["n"]
    within = bool(
        ((order >= 0) & (order < n)).all()
    )  # before it is counted: a count is as long as the largest
    _require(
        within and bool((np.bincount(order, minlength=n) == 1).all()), "kd_order", "must name each row once"
    )
    fits = lengths["N"] >= lengths["n"] and lengths["E"] >= lengths["D"]
    _require(fits, "codes", f"must have {lengths['n']} rows of {lengths['D']} or more")


def _finite(array: Array) -> bool:
    return bool(np.isfinite(array).all())


def _check_tree(arrays: Mapping[str, Array], n: int, k: int) -> None:
    """The condensed tree is one tree, over all training rows, and clusters are nodes of it."""
    parent, child = arrays["tree_parent"], arrays["tree_child"]
    last = int(parent.max(initial=n))
    _require(len(parent) > 0 and int(parent.min()) == n, "tree_parent", f"must begin at the root, {n}")
    _require(
        bool(((child >= 0) & (child < last + 1) & (child != n)).all()), "tree_child", f"must be in 0..{last}"
    )
    inner = child >= n
    _require(bool((child[inner] > parent[inner]).all()), "tree_child", "must number children after parents")
    _require(bool(np.isin(parent, np.append(child, n)).all()), "tree_parent", "must hang together")
    _require(len(np.unique(child)) == len(child), "tree_child", "must name a child once")
    _require(len(np.intersect1d(child, np.arange(n))) == n, "tree_child", "must name every training row")
    # infinite where images lie on one point
    _require(not np.isnan(arrays["tree_lambda"]).any(), "tree_lambda", "must be numbers")
    labels, nodes = arrays["labels"], arrays["cluster_nodes"]
    _require(bool(((labels >= -1) & (labels < k)).all()), "labels", f"must be in -1..{k - 1}")
    _require(bool(((nodes >= n) & (nodes <= last)).all()), "cluster_nodes", f"must be in {n}..{last}")


def _check_spec(name: str, array: Array | None, spec: ArraySpec, lengths: dict[str, int]) -> None:
    if array is None:
        raise ModelError(f"the array {name!r} is missing from {ARRAYS}")
    if str(array.dtype) != spec.dtype or array.ndim != len(spec.axes):
        raise ModelError(
            f"the array {name!r} in {ARRAYS} must be {spec.dtype} ({', '.join(spec.axes)}), "
            f"is {array.dtype} {array.shape}"
        )
    for axis, length in zip(spec.axes, array.shape, strict=True):
        if lengths.setdefault(axis, length) != length:
            raise ModelError(f"the array {name!r} has {length} {axis}, others have {lengths[axis]}")


def _require(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise ModelError(f"the array {name!r} in {ARRAYS} is damaged: it {what}")


def write_folder(path: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write a folder beside `path`, complete, then let it take the place of what is there.

    Raises:
        ModelError: `path` exists and is not a model folder (it is left alone), or cannot be written.
    """
    if path.exists() and not _replaceable(path):
        raise ModelError(f"{str(path)!a} exists and is not a model folder: remove it, or give another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ModelError(f"cannot write the model to {str(path)!a}: {error.strerror}") from error
    try:
        for name, data in {**files, MANIFEST: orjson.dumps(manifest, option=_PRETTY)}.items():
            _write(temporary / name, data)
        temporary.chmod(0o755)
        _take_place(temporary, path)
    except OSError as error:
        raise ModelError(f"cannot write the model to {str(path)!a}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS


def _replaceable(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        if path.parent.name != THUMBNAILS:  # a lost thumbnail costs a picture, a lost array the model
            file.flush()
            os.fsync(file.fileno())


def _take_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    path.rename(old / "model")
    try:
        temporary.rename(path)
    except OSError:
        (old / "model").rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a manifest, and the digest of every file that it names.

    Raises:
        ModelError: naming the file that is missing, changed, or not what it should be.
    """
    manifest = read_json(path, MANIFEST)
    found = manifest.get("format")
    if found not in FORMATS:
        raise ModelError(
            f"{str(path / MANIFEST)!a}: model format {found!a} is unknown, this imgclust reads "
            f"{' and '.join(map(str, FORMATS))}: "
            "install the release of imgclust that wrote the model, or fit again"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or len(files) > MAX_FILES or not set(REQUIRED) <= set(files):
        raise ModelError(f'{str(path / MANIFEST)!a}: "files" must name {", ".join(REQUIRED)}')
    for name, digest in files.items():
        _check_file(path, name, digest)
    version, taxonomy = manifest.get("version"), manifest.get("taxonomy")
    computed = version_of(manifest, starts_taxonomy=version == taxonomy)
    if version != computed:
        raise ModelError(
            f"{str(path / MANIFEST)!a} does not match its version {version!a} (computed: {computed}): "
            "it was changed by hand or damaged; copy the model folder again"
        )
    return manifest


def _check_file(path: Path, name: str, digest: object) -> None:
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise ModelError(f"{str(path / MANIFEST)!a} names a file that no model has: {ascii(name)[:120]}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ModelError(f"{str(path / MANIFEST)!a}: the SHA-256 of {name} is {ascii(digest)[:80]}")
    file = path / name
    if not file.is_file():
        raise ModelError(f"{str(file)!a} is missing: the model folder is not complete, copy it again")
    limit = {CLUSTERS: MAX_JSON, EDITS: MAX_JSON, MAP: MAX_JSON}.get(
        name, MAX_THUMBNAIL if name != ARRAYS else None
    )
    if limit is not None and file.stat().st_size > limit:
        raise ModelError(f"{str(file)!a} has {file.stat().st_size} bytes, at most {limit} are read")
    with file.open("rb") as opened:
        actual = hashlib.file_digest(opened, "sha256").hexdigest()
    if actual != digest:
        raise ModelError(
            f"{str(file)!a} does not match the manifest (SHA-256 {actual[:12]}…, expected {digest[:12]}…): "
            "it was changed or damaged; copy the model folder again"
        )


def read_json(path: Path, name: str) -> dict[str, Any]:
    """Read one of the folder's JSON files, an object.

    Raises:
        ModelError: it is missing, larger than `MAX_JSON`, or not a JSON object.
    """
    file = path / name
    try:
        if not file.is_file():
            raise ModelError(f"{str(path)!a} is not a model folder: it has no {name}")
        if file.stat().st_size > MAX_JSON:
            raise ModelError(f"{str(file)!a} has more than {MAX_JSON} bytes")
        value = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ModelError(f"{str(file)!a} cannot be read: {str(error)!a}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{str(file)!a} must hold a JSON object")
    return value
