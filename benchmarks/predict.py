"""What a frozen prediction costs, beside UMAP.transform and hdbscan.approximate_predict in the same run.

    python -m benchmarks.predict [--cache DIR] [--embeddings FOLDER] [PART…]

Parts: speed, search, start, curve, candidates, novelty, flips (all by default). Prints a JSON line per
figure. Speed, search and start use the setting "synthetic-150k": 150,000 × 512 and the article's parameters,
whose first fit takes a quarter of an hour and is cached.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import FITTED
from benchmarks.settings import SETTINGS, fitted, frozen, unit_half
from imgclust import ClusterModel
from imgclust.predictor import compiled, int8
from imgclust.predictor.ivf import build_ivf
from imgclust.predictor.neighbours import Neighbourhood, Neighbours
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.predictor.prepare import prepare
from imgclust.predictor.soft_membership import SoftMembership

LARGE = "synthetic-150k"
BATCH = 256
RUNS = 5
RATES = (0.001, 0.005, 0.01, 0.02, 0.05)

Line = dict[str, Any]


def timed(call: Callable[[], Any], runs: int = RUNS) -> tuple[float, float]:
    """Median wall and processor milliseconds of a call, after one to warm up."""
    call()
    walls, cpus = [], []
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(1000 * (time.perf_counter() - wall))
        cpus.append(1000 * (time.process_time() - cpu))
    return float(np.median(walls)), float(np.median(cpus))


def speed(cache: Path) -> Iterator[Line]:
    """A batch and a single image, ours and the libraries' in turn; and where our time goes."""
    import hdbscan

    reducer, clusterer, data = fitted(LARGE, cache)
    model = frozen(LARGE, cache)
    predictor = FrozenPredictor(model.arrays, model.parameters)
    plain = in_numpy(model)

    def libraries(rows: np.ndarray) -> None:
        hdbscan.approximate_predict(clusterer, reducer.transform(rows))

    for rows in (data.held_out[:BATCH], data.held_out[:1]):
        runs = 15 if len(rows) > 1 else 101  # a median that a short disturbance does not move
        ours = timed(lambda rows=rows: predictor.predict(rows), runs)
        numpy = timed(lambda rows=rows: plain.predict(rows), runs)
        theirs = timed(lambda rows=rows: libraries(rows), runs // 3)
        for kind, a, b, c in zip(("wall", "cpu"), ours, numpy, theirs, strict=True):
            yield {
                "figure": f"{kind} ms per image, batch of {len(rows)}",
                "value": a / len(rows),
                "in_numpy": b / len(rows),
                "library": c / len(rows),
                "times": c / a,
                "compiled": predictor._kernels is not None,
                "threads": torch.get_num_threads(),
            }
    singles = [data.held_out[i : i + 1] for i in range(BATCH)]
    wall, cpu = timed(lambda: [predictor.predict(row) for row in singles], 3)
    yield {"figure": "ms per image, 256 images one by one", "wall": wall / BATCH, "cpu": cpu / BATCH}
    yield from beside_python(model, data.held_out)
    yield from stages(plain, data.held_out[:BATCH])


def in_numpy(model: ClusterModel) -> FrozenPredictor:
    """The predictor without compiled code, as it is where no compiler was."""
    before = compiled.library
    compiled.library = lambda: None
    try:
        return FrozenPredictor(model.arrays, model.parameters)
    finally:
        compiled.library = before


def beside_python(model: ClusterModel, rows: np.ndarray, seconds: float = 4.0) -> Iterator[Line]:
    """Images a second of one predictor thread, alone and beside a thread of Python that never rests."""
    for name, predictor in (
        ("compiled", FrozenPredictor(model.arrays, model.parameters, threads=1)),
        ("numpy", in_numpy(model)),
    ):
        for busy in (False, True):
            stop = threading.Event()
            turns = [0]
            thread = threading.Thread(target=spin, args=(stop, turns))
            if busy:
                thread.start()
            for size in (64, BATCH):
                started, images, before = time.perf_counter(), 0, turns[0]
                while (spent := time.perf_counter() - started) < seconds:
                    predictor.predict(rows[:size])
                    images += size
                yield {
                    "figure": f"images/s, {name}, batch of {size}" + (" beside busy Python" if busy else ""),
                    "value": images / spent,
                    "python_turns_per_s": (turns[0] - before) / spent if busy else None,
                }
            stop.set()
            if busy:
                thread.join()


def spin(stop: threading.Event, turns: list[int]) -> None:
    """Python that never rests, and counts."""
    while not stop.is_set():
        turns[0] += 1


def stages(predictor: FrozenPredictor, rows: np.ndarray) -> Iterator[Line]:
    """Processor time of each stage of a batch."""
    near = predictor._neighbours.search(rows)
    torch.set_num_threads(1)  # as in the predictor's own threads
    reading = predictor._neighbours.reading(rows)
    found = [predictor._neighbours.candidates(reading, slice(None))]
    placed = predictor._umap.transform(near)
    membership = predictor.tree.predict(placed.points)
    for stage, call in {
        "cells to read": lambda: predictor._neighbours.reading(rows),
        "shortlist by 8-bit products": lambda: predictor._neighbours.candidates(reading, slice(None)),
        "true distances of the shortlist": lambda: predictor._neighbours.ranked(rows, found),
        "UMAP transform": lambda: predictor._umap.transform(near),
        "cluster tree": lambda: predictor.tree.predict(placed.points),
        "candidates": lambda: predictor._soft.best(placed.points, membership),
    }.items():
        yield {"figure": f"cpu ms per image: {stage}", "value": timed(call)[1] / len(rows)}


def search(cache: Path) -> Iterator[Line]:
    """Ways to find the neighbours: recall against exact ones, labels, time, memory; whether batches matter.

    faiss and usearch are compared where they are installed: `pip install faiss-cpu usearch`.
    """
    model, data = frozen(LARGE, cache), SETTINGS[LARGE].data()
    torch.set_num_threads(1)  # on a busy machine waiting OpenMP threads would be counted as work
    predictor = FrozenPredictor(model.arrays, model.parameters, threads=1)
    ours: Neighbours = predictor._neighbours
    rows, k = data.held_out, model.parameters["umap"]["n_neighbors"]
    squares = (data.train.astype(np.float64) ** 2).sum(1)

    def exact(part: np.ndarray) -> np.ndarray:
        products = part.astype(np.float64) @ data.train.T.astype(np.float64)  # exact, and float64
        return np.argsort(squares - 2 * products, axis=1)[:, :k]

    def label(shortlist: np.ndarray) -> np.ndarray:
        """What becomes of the images, given these neighbours."""
        near = [ours.nearest(rows[i : i + 1], found[None]) for i, found in enumerate(shortlist)]
        joined = Neighbourhood(
            *(np.concatenate([getattr(n, f.name) for n in near]) for f in dataclasses.fields(Neighbourhood))
        )
        return predictor.tree.predict(predictor._umap.transform(joined).points).labels

    truth = np.concatenate([exact(rows[i : i + 100]) for i in range(0, len(rows), 100)])
    expected = label(truth)
    for way, query, size in ways(cache, model, data.train, ours, k):
        shortlist = query(rows)
        labels = label(shortlist)
        recall = np.mean([np.isin(b, a).mean() for a, b in zip(shortlist, truth, strict=True)])
        wall, cpu = timed(lambda query=query: query(rows[:BATCH]), 3)
        alone = np.median([timed(lambda i=i, query=query: query(rows[i : i + 1]), 1)[0] for i in range(20)])
        singly = np.concatenate([query(rows[i : i + 1]) for i in range(BATCH)])
        yield {
            "figure": f"neighbours by {way}",
            "wall_ms": wall / BATCH,
            "cpu_ms": cpu / BATCH,
            "one_image_ms": float(alone),
            "recall": float(recall),
            "labels_that_differ": float((labels != expected).mean()),
            "mb_beside_embeddings": None if size is None else size / 1e6,
            "same_alone": bool((np.sort(singly, 1) == np.sort(shortlist[:BATCH], 1)).all()),
        }


def ways(
    cache: Path, model: ClusterModel, train: np.ndarray, ours: Neighbours, k: int
) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray], int | None]]:
    """Name of each search, its function from embeddings to rows, k or more for each, and its bytes."""
    arrays = model.arrays
    mine = sum(arrays[n].nbytes for n in ("codes", "code_rows", "cell_centres", "cell_starts"))
    yield "cells of 8-bit codes, true distances", lambda rows: ours.search(rows).rows, mine
    everything = {**arrays, "cell_margin": np.array([2**30], dtype=np.int32)}
    whole = Neighbours(everything, k, "euclidean")
    yield "all 8-bit codes, true distances", lambda rows: whole.search(rows).rows, mine
    lattice = torch.from_numpy(np.rint(train * 4000))

    def by_lattice(rows: np.ndarray) -> np.ndarray:
        return (torch.from_numpy(np.rint(rows * 4000)) @ lattice.T).topk(k, dim=1).indices.numpy()

    yield "float32 integers, rint(4000 x)", by_lattice, lattice.nbytes
    index = fitted(LARGE, cache)[0]._knn_search_index
    yield "pynndescent", lambda rows: index.query(rows, k, epsilon=0.12)[0].astype(np.int64), None
    scale, short = float(arrays["code_scale"][0]), k + k // 2
    coded = int8.encode(arrays["embeddings"], scale)
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
        ivf = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(coded.shape[1]), coded.shape[1], 256, kind, faiss.METRIC_INNER_PRODUCT
        )
        ivf.train(coded[::5].astype(np.float32))
        ivf.add(coded.astype(np.float32))
        size = len(faiss.serialize_index(ivf))
        for probed in (8, 32, 64):

            def by_ivf(rows: np.ndarray, probed: int = probed) -> np.ndarray:
                ivf.nprobe = probed
                return ivf.search(int8.encode(rows, scale).astype(np.float32), short)[1]

            yield f"faiss IVF256 of int8, {probed} probed, true distances", by_ivf, size
    if importlib.util.find_spec("usearch"):
        from usearch.index import Index

        graph = Index(ndim=coded.shape[1], metric="ip", dtype="i8", connectivity=16)
        graph.add(np.arange(len(coded)), coded, threads=1)
        for expansion in (128, 512):

            def by_graph(rows: np.ndarray, expansion: int = expansion) -> np.ndarray:
                graph.expansion_search = expansion
                keys = graph.search(int8.encode(rows, scale), short, threads=1).keys
                return keys.reshape(len(rows), -1).astype(np.int64)

            yield f"usearch HNSW of int8, expansion {expansion}, true distances", by_graph, graph.memory_usage


READ_ONLY = (  # for a shell of root's: a user's process that sees the whole file system read-only
    "mount --make-rprivate / && mount -o remount,bind,ro / && exec setpriv --reuid 65534 --regid 65534 "
    '--clear-groups --no-new-privs "$@"'
)


def start(cache: Path) -> Iterator[Line]:
    """A fresh process of an unprivileged user without HOME, root read-only: from nothing to its first answer.

    Run as root, with util-linux; where others cannot run this interpreter, the system's of the same version
    is taken, with the same packages. Otherwise only HOME is missing.
    """
    frozen(LARGE, cache)
    np.save(cache / "rows.npy", SETTINGS[LARGE].data().held_out[:4])
    script = f"""
        import time; begun = time.perf_counter()
        import json, os, resource, sys
        import numpy as np, torch, safetensors.numpy
        from imgclust import ClusterModel
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
        before, loading, cpu = resident(), time.perf_counter(), time.process_time()
        model = ClusterModel.load({str(cache / f"model-{LARGE}")!r})
        loaded = time.perf_counter()
        rows = np.load({str(cache / "rows.npy")!r})
        model.predict(rows[:1]); first, cpu = time.perf_counter(), time.process_time() - cpu
        model.predict(rows[1:2]); second = time.perf_counter()
        heavy = sorted(set(sys.modules) & {{"umap", "hdbscan", "pynndescent", "numba"}})
        try:
            open("/tmp/imgclust-written", "w").close(); writes = True
        except OSError:
            writes = False
        print(json.dumps([loading - begun, loaded - loading, first - loading, cpu, second - first,
                          resident() - before, heavy, os.getuid(), writes]))
    """
    paths = [Path(__file__).resolve().parents[1], Path(np.__file__).parents[1]]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(map(str, paths))}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    user = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"]
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    for command in ([*user, sys.executable], [*user, system], [sys.executable]):
        ran = [*command, "-c", textwrap.dedent(script)]
        done = subprocess.run(ran, env=environment, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
    imports, load, first, cpu, second, memory, heavy, uid, writes = json.loads(done.stdout)
    yield {
        "figure": "user id of the fresh process",
        "value": uid,
        "can_write": writes,
        "command": command[-1],
    }
    yield {"figure": "s to import numpy, torch and imgclust", "value": imports}
    yield {"figure": "s to load 150,000 × 512, digests checked", "value": load}
    yield {"figure": "s from the start of loading to the first answer", "value": first, "cpu": cpu}
    yield {"figure": "ms of the second answer", "value": 1000 * second}
    yield {"figure": "MB that the loaded model and its first answers take", "value": memory}
    yield {"figure": "umap, hdbscan, pynndescent and numba imported", "value": heavy}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "imgclust.cli.arguments", "--help"], capture_output=True, check=False
    )
    yield {"figure": "s for imgclust --help", "value": time.perf_counter() - began}


def curve(cache: Path) -> Iterator[Line]:
    """Cost against training images: the frozen 150,000, thinned out or repeated with jitter."""
    model, rows = frozen(LARGE, cache), SETTINGS[LARGE].data().held_out[:BATCH]
    for n in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        arrays = resized(model, n)
        predictor = FrozenPredictor(arrays, model.parameters)
        wall, cpu = timed(lambda predictor=predictor: predictor.predict(rows), 3)
        alone, _ = timed(lambda predictor=predictor: predictor.predict(rows[:1]), 3)
        yield {
            "figure": f"{n} training images",
            "wall_ms": wall / BATCH,
            "cpu_ms": cpu / BATCH,
            "one_image_ms": alone,
            "arrays_mb": sum(a.nbytes for a in arrays.values()) / 1e6,
        }


def resized(model: ClusterModel, n: int) -> dict[str, np.ndarray]:
    """Frozen arrays of n rows with the shape of the model's: no fit could make a million in an afternoon."""
    old, rng = model.arrays, np.random.default_rng(0)
    source = np.sort(rng.choice(len(old["points"]), n, replace=n > len(old["points"])))
    inner = old["tree_size"] > 1
    leaf = np.empty(len(old["points"]), dtype=np.int64)
    leaf[old["tree_child"][~inner]] = np.flatnonzero(~inner)
    shift = n - len(old["points"])
    noise = rng.normal(size=(n, old["points"].shape[1])).astype(np.float32) * np.float32(0.02)
    embeddings = np.empty((n, old["embeddings"].shape[1]), dtype=np.float16)
    for i in range(0, n, 8192):
        part = old["embeddings"][source[i : i + 8192]].astype(np.float32)
        part += 0.005 * rng.standard_normal(part.shape, dtype=np.float32)
        embeddings[i : i + 8192] = part / np.sqrt((part * part).sum(1, keepdims=True))
    arrays = {
        "embeddings": embeddings,
        "points": old["points"][source] + noise,
        "core_distances": old["core_distances"][source],
        "tree_parent": np.concatenate([old["tree_parent"][inner], old["tree_parent"][leaf[source]]]) + shift,
        "tree_child": np.concatenate([old["tree_child"][inner] + shift, np.arange(n)]),
        "tree_lambda": np.concatenate([old["tree_lambda"][inner], old["tree_lambda"][leaf[source]]]),
        "tree_size": np.concatenate([old["tree_size"][inner], np.ones(n, dtype=np.int64)]),
        "cluster_nodes": old["cluster_nodes"] + shift,
    }
    return {**arrays, **prepare(arrays, model.parameters)}


def candidates(cache: Path) -> Iterator[Line]:
    """Scores against `hdbscan.membership_vector` at the same places, for "other" alone too."""
    import hdbscan

    for name in ("clipart", "digits", LARGE):
        _, clusterer, data = fitted(name, cache)
        model = frozen(name, cache)
        predictor = FrozenPredictor(model.arrays, model.parameters)
        soft: SoftMembership = predictor._soft
        found = predictor.predict(data.held_out)
        ours = soft.scores(found.points, predictor.tree.predict(found.points))
        theirs = np.nan_to_num(hdbscan.membership_vector(clusterer, found.points))
        other = found.labels < 0
        for which, rows in (("all", np.ones(len(other), bool)), ("other", other)):
            yield {
                "figure": f"candidates of {which}, {name}",
                "correlation": np.corrcoef(ours[rows].ravel(), theirs[rows].ravel())[0, 1],
                "same_first": float((ours[rows].argmax(1) == theirs[rows].argmax(1)).mean()),
                "rows": int(rows.sum()),
            }


def novelty(cache: Path, own: Path | None = None) -> Iterator[Line]:
    """Novel among what a model was not trained on, at several false alarm rates.

    Five splits, each without another fifth of the categories; a quarter of the others is held out, of which
    one half calibrates and the other is judged. Strange pictures go through the same encoder.
    """
    strange = _strange_pictures()
    yield from _novelty("clip-art", *SETTINGS["clipart"].load(), strange)
    if own:
        yield from _novelty(own.name, *_own(own), strange)
    rows, categories = SETTINGS["digits"].load()
    noise = unit_half(np.random.default_rng(5).integers(0, 17, size=(64, rows.shape[1])).astype(np.float64))
    yield from _novelty("digits", rows, categories, {"white noise": noise})
    yield from _novelty("synthetic", *SETTINGS["synthetic-20k"].load(), {})


def _novelty(
    name: str, rows: np.ndarray, categories: np.ndarray, strange: Mapping[str, np.ndarray]
) -> Iterator[Line]:
    from imgclust.predictor.novelty import calibrate, judge, mean_direction

    found: dict[tuple[str, float], list[float]] = {}
    names = np.unique(categories)
    for split in range(5):
        left_out = np.isin(categories, names[split::5])
        order = np.random.default_rng(split).permutation(np.flatnonzero(~left_out))
        held, train = order[: len(order) // 4], rows[order[len(order) // 4 :]]
        embeddings = train.astype(np.float16)
        near = Neighbours({"embeddings": embeddings, **build_ivf(embeddings, 15)}, 15, "euclidean")
        middle = mean_direction(embeddings)
        groups = {"known, held out": rows[held[1::2]], "categories left out": rows[left_out], **strange}
        nearest = {group: near.search(vectors).similarities for group, vectors in groups.items()}
        calibrating = rows[held[::2]]
        cosines = near.search(calibrating).similarities.astype(np.float32)
        for rate in RATES:
            table = calibrate(train, middle, calibrating, cosines, rate)
            for group, vectors in groups.items():
                novel = judge(table, middle, vectors, nearest[group])
                found.setdefault((group, rate), []).append(float(novel.mean()))
    for group in groups:
        yield {
            "figure": f"novel among {group}, {name}",
            "images": len(groups[group]),
            "trained_on": len(train),
            **{f"at {rate:.1%}": float(np.mean(found[group, rate])) for rate in RATES},
        }


def _strange_pictures() -> dict[str, np.ndarray]:
    """Embeddings of pictures that nobody uploads on purpose, and of crops of photographs, by `mini`."""
    from sklearn.datasets import load_sample_images

    from imgclust.embedding.encoder import load_encoder

    encoder, rng = load_encoder("mini"), np.random.default_rng(5)
    size = encoder.identity.preprocessing.size
    whole = (32, size, size, 3)
    crops = []
    for photograph in load_sample_images().images:
        height, width, _ = photograph.shape
        for _ in range(20):
            y, x = rng.integers(height - size), rng.integers(width - size)
            crops.append(photograph[y : y + size, x : x + size])
    pictures = {
        "white noise": rng.integers(0, 256, size=whole, dtype=np.uint8),
        "grey noise": np.repeat(rng.integers(0, 256, size=(*whole[:3], 1), dtype=np.uint8), 3, axis=3),
        "noisy black frames": np.clip(rng.normal(3, 4, size=whole), 0, 255).astype(np.uint8),
        "a black frame": np.zeros((1, size, size, 3), dtype=np.uint8),
        "photographs": np.stack(crops),
    }
    return {name: encoder.encode(np.ascontiguousarray(pixels)) for name, pixels in pictures.items()}


def _own(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings that `imgclust embed` made of a folder; near copies left out, folders as categories."""
    from imgclust.embedding.store import read_embeddings
    from imgclust.training.dedupe import find_duplicates

    given = read_embeddings(folder)
    rows = given.vectors.astype(np.float32)
    kept = find_duplicates(rows, given.sha256).kept
    categories = np.array(["/".join(id_.split("/")[:-1][:2]) for id_ in given.ids])
    return rows[kept], categories[kept]


def flips(cache: Path) -> Iterator[Line]:
    """Labels that change when the encoder is given other batch shapes."""
    from imgclust.embedding.encoder import load_encoder
    from imgclust.images.decode import decode

    encoder = load_encoder("mini")
    images = sorted((Path(__file__).resolve().parents[1] / "examples" / "clipart").glob("*/*.*"))[::8]
    pixels = np.stack([decode(p.read_bytes(), encoder.identity.preprocessing).pixels for p in images])
    model = frozen("clipart", cache)
    predictor = FrozenPredictor(model.arrays, model.parameters)
    shapes = {
        n: np.concatenate([encoder.encode(pixels[i : i + n]) for i in range(0, len(pixels), n)])
        for n in (1, 8, 64)
    }
    labels = {n: predictor.predict(vectors).labels for n, vectors in shapes.items()}
    for n in (1, 8):
        yield {
            "figure": f"labels that flip between encoder batches of {n} and 64",
            "value": float((labels[n] != labels[64]).mean()),
            "embeddings_that_differ": float((shapes[n] != shapes[64]).any(1).mean()),
            "images": len(images),
        }


PARTS = {part.__name__: part for part in (speed, search, start, curve, candidates, novelty, flips)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--cache", type=Path, default=FITTED)
    parser.add_argument(
        "--embeddings", type=Path, metavar="FOLDER",
        help="for novelty, too: made by `imgclust embed --encoder mini`; folders are categories",
    )  # fmt: skip
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    parts = PARTS | {"novelty": partial(novelty, own=options.embeddings)}
    for name in options.parts or parts:
        for line in parts[name](options.cache):
            short = {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
            print(json.dumps({"part": name, **short}, ensure_ascii=False, default=float), flush=True)


if __name__ == "__main__":
    main()
