"""How memory and time of `imgclust embed` and `imgclust fit` grow with the number of images.

    python -m benchmarks.curves                          both, at 1,000 to 20,000 images
    python -m benchmarks.curves fit 150000               one size
    python -m benchmarks.curves fit 1000000 --max-train 50000
    python -m benchmarks.curves embed 1000 5000          clip-art through `mini`
    python -m benchmarks.curves embed 150000 --encoder stand-in

Each point is one run of the command in a process of its own, which is asked for its processor time and its
largest resident memory when it ends (`wait4`). `fit` gets synthetic embeddings of 512 numbers (`synthetic` of
settings.py: 60 curved clouds of very unequal size, with bridges and haze), written as `embed` writes them,
float16 in shards of 100,000, and is run as people run it, with its progress. `embed` gets a list that names
the clip-art example's pictures again and again, each time under another id: all of them are read, decoded and
encoded. "stand-in" is an encoder that takes next to no time, so that the rest of `embed` is what is measured.

Prints a JSON line for each point, with the seconds of every stage of a fit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import CLIPART, ROOT, machine, process_seconds

SIZES = (1_000, 5_000, 20_000)
DIM = 512
SHARD = 100_000
STAGE = re.compile(r"(\w+): .*?\b100%, (\d+) s")


# ── one run of a command ─────────────────────────────────────────────────────────────────────────────────


def measured(command: Sequence[str], log: Path) -> dict[str, Any]:
    """Run a command; what it printed goes to `log`. Of a fit, the processor seconds of each stage, too.

    Raises:
        SystemExit: it failed; the end of the log says why.
    """
    started = time.perf_counter()
    stages: dict[str, float] = {}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment(), text=True
    )
    samples, ended = _memory(process.pid)
    assert process.stdout is not None
    with log.open("w") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            if stage := STAGE.match(line):
                stages[stage[1]] = round(process_seconds(process.pid) - sum(stages.values()), 1)
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return {
        "wall_s": round(time.perf_counter() - started, 1),
        "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
        **({"stages_processor_s": stages} if stages else {}),
        "peak_MB": round(usage.ru_maxrss / 1024),
        "half_way_MB": samples[len(samples) // 2] if samples else None,
        "at_the_end_MB": samples[-1] if samples else None,
    }


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _memory(pid: int) -> tuple[list[int], threading.Event]:
    """Resident MB of a process, every half a second until the event is set."""
    samples: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.5):
            try:
                fields = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                return
            if found := re.search(r"VmRSS:\s+(\d+) kB", fields):
                samples.append(int(found[1]) // 1024)

    threading.Thread(target=sample, daemon=True).start()
    return samples, ended


# ── fit ──────────────────────────────────────────────────────────────────────────────────────────────────


def write_embeddings(folder: Path, n: int) -> None:
    """A folder of `n` synthetic embeddings, as `imgclust embed` would have written it, shard by shard."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.settings import synthetic
    from imgclust.embedding.store import schema
    from imgclust.types import EncoderIdentity, Preprocessing

    identity = EncoderIdentity("synthetic", "none", "0" * 64, Preprocessing(224, 224), "float32", DIM)
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, n, SHARD)):
        part = synthetic(min(SHARD, n - start), DIM, part=number)[0].astype(np.float16)
        names = [f"image-{i:07d}" for i in range(start, start + len(part))]
        flat = pa.array(part.reshape(-1), pa.float16())
        columns = {
            "id": names,
            "source": names,
            "embedding": pa.FixedSizeListArray.from_arrays(flat, DIM),
            "width": np.full(len(part), 640, np.int32),
            "height": np.full(len(part), 427, np.int32),
            "sha256": [f"{i:064x}" for i in range(start, start + len(part))],
            "attributes": ["{}"] * len(part),
            "phash": pa.nulls(len(part), pa.uint64()),
        }
        pq.write_table(pa.table(columns, schema(identity)), folder / f"embeddings-{number:05d}.parquet")


def fit(n: int, scratch: Path, options: Sequence[str]) -> dict[str, Any]:
    """`imgclust fit` of `n` synthetic embeddings, which another process makes: its memory is given back."""
    folder, log = scratch / "embeddings", scratch / "fit.log"
    writing = [sys.executable, "-m", "benchmarks.curves", "write-embeddings", str(folder), str(n)]
    subprocess.run(writing, check=True, env=_environment())
    command = [sys.executable, "-m", "imgclust", "fit", str(folder), "-o", str(scratch / "model"), *options]
    found = measured(command, log)
    text = log.read_text()
    trained = re.search(r"training on (\d+) images", text)
    clusters = re.search(r": (\d+) clusters", text)
    return {
        "curve": "fit",
        "images": n,
        "trained": int(trained[1]) if trained else None,
        **found,
        "stages_wall_s": {stage: int(seconds) for stage, seconds in STAGE.findall(text)},
        "clusters": int(clusters[1]) if clusters else None,
        "model_MB": _size(scratch / "model"),
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) // 1_000_000


# ── embed ────────────────────────────────────────────────────────────────────────────────────────────────


def write_list(path: Path, n: int) -> None:
    """A list of `n` pictures with ids of their own: the example's, again and again."""
    files = sorted(file for file in CLIPART.glob("*/*") if file.is_file())
    with path.open("w") as file:
        file.write("id,path\n")
        file.writelines(f"image-{i:07d},{files[i % len(files)]}\n" for i in range(n))


def embed(n: int, scratch: Path, encoder: str) -> dict[str, Any]:
    """`imgclust embed` of `n` pictures."""
    pictures, folder = scratch / "pictures.csv", scratch / "embeddings"
    write_list(pictures, n)
    if encoder == "stand-in":
        command = [sys.executable, "-m", "benchmarks.curves", "embed-stand-in", str(pictures), str(folder)]
    else:
        command = [
            sys.executable, "-m", "imgclust", "embed", str(pictures), "-o", str(folder), "--encoder", encoder
        ]  # fmt: skip
    found = measured(command, scratch / "embed.log")
    rate = round(n / found["wall_s"], 1)
    return {"curve": "embed", "encoder": encoder, "images": n, **found, "images_per_s": rate}


def embed_with_stand_in(pictures: Path, folder: Path) -> None:
    """Run in a process of its own: `embed` with an encoder whose embeddings are picked by a few pixels."""
    import numpy as np

    from imgclust.embedding.embed import embed
    from imgclust.types import EncoderIdentity, Floats, Pixels, Preprocessing

    class StandIn:
        identity = EncoderIdentity("stand-in", "none", "0" * 64, Preprocessing(224, 256), "float32", DIM)

        def __init__(self) -> None:
            rows = np.random.default_rng(0).normal(size=(1024, DIM))
            self._rows = (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float16).astype(np.float32)

        def encode(self, pixels: Pixels) -> Floats:
            which = pixels[:, ::32, ::32].sum(axis=(1, 2, 3), dtype=np.int64) % len(self._rows)
            chosen: Floats = self._rows[which]
            return chosen

    embed([pictures], folder, StandIn())


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    inner = {
        "write-embeddings": lambda folder, n: write_embeddings(Path(folder), int(n)),
        "embed-stand-in": lambda pictures, folder: embed_with_stand_in(Path(pictures), Path(folder)),
    }
    if sys.argv[1:2] and sys.argv[1] in inner:
        inner[sys.argv[1]](*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curve", nargs="?", choices=("fit", "embed"), help="one of them; else both")
    parser.add_argument("sizes", nargs="*", type=int, help=f"numbers of images (else {SIZES})")
    parser.add_argument("--max-train", help="of `fit`")
    parser.add_argument("--test-fraction", help="of `fit`")
    parser.add_argument("--encoder", default="mini", help="of `embed`: mini or stand-in (%(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep there what is written, by size")
    arguments = parser.parse_args()
    print(json.dumps(machine()), flush=True)
    options = [
        text
        for name in ("max-train", "test-fraction")
        if (value := getattr(arguments, name.replace("-", "_"))) is not None
        for text in (f"--{name}", value)
    ]
    for curve in [arguments.curve] if arguments.curve else ["fit", "embed"]:
        for n in arguments.sizes or SIZES:
            scratch = Path(tempfile.mkdtemp(prefix="imgclust-curves-"))
            try:
                line = fit(n, scratch, options) if curve == "fit" else embed(n, scratch, arguments.encoder)
                print(json.dumps(line), flush=True)
                if arguments.keep:
                    shutil.move(scratch, arguments.keep / f"{curve}-{n}")
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
