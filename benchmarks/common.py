"""What the benchmarks of the worker share: figures, real servers, a model, pictures, processor time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bench"
FITTED = Path(tempfile.gettempdir()) / "imgclust-benchmarks"  # what takes long to fit or to embed
CLIPART = ROOT / "examples" / "clipart"


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One measured number; `naive` is the naive loop's in the same run, `spread` (lowest, highest)."""

    benchmark: str
    figure: str
    unit: str
    value: float
    naive: float | None = None
    spread: tuple[float, float] | None = None
    runs: int = 1

    @property
    def ratio(self) -> float | None:
        return self.value / self.naive if self.naive else None

    def line(self) -> str:
        """The figure as one line of JSON."""
        raw = {**dataclasses.asdict(self), "ratio": self.ratio}
        return json.dumps({k: _short(v) for k, v in raw.items() if v is not None})


def summed_up(
    benchmark: str, figure: str, unit: str, values: Sequence[float], naive: Sequence[float] = ()
) -> Figure:
    """The median of several runs, beside the naive loop's median, and the spread."""
    return Figure(
        benchmark,
        figure,
        unit,
        statistics.median(values),
        statistics.median(naive) if naive else None,
        (min(values), max(values)) if len(values) > 1 else None,
        len(values),
    )


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Figures, as their JSON says them, as a table in Markdown."""
    rows = [["benchmark", "figure", "value", "lowest–highest", "naive loop", "ratio"]]
    for line in lines:
        spread = line.get("spread")
        rows.append(
            [
                line["benchmark"],
                line["figure"],
                f"{line['value']:g} {line['unit']}",
                f"{spread[0]:g}–{spread[1]:g}" if spread else "",
                f"{line['naive']:g}" if "naive" in line else "",
                f"{line['ratio']:g} ×" if "ratio" in line else "",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows
    )


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return [_short(v) for v in value] if isinstance(value, tuple) else value


def machine() -> dict[str, Any]:
    """Where this runs, for the reader of the figures."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "machine": f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


# ── processor time ───────────────────────────────────────────────────────────────────────────────────────


def thread_seconds() -> dict[int, float]:
    """Seconds on a processor of each thread of this process, those of C libraries too (Linux).

    From the scheduler's own account in nanoseconds: `stat` counts in ticks of 10 ms.
    """
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it ended just now
            seconds[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def thread_names() -> dict[int, str]:
    """Python's threads by their names in Python, those of C libraries by the names they gave themselves."""
    names = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            names[int(task.name)] = (task / "comm").read_text().strip()
    return names | {t.native_id: t.name for t in threading.enumerate() if t.native_id is not None}


def process_seconds(pid: int) -> float:
    """Seconds on a processor of another process that runs, all its threads together (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ── servers, model, pictures ─────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def redis_url() -> Iterator[str]:
    """A `redis-server` of its own that keeps nothing; where there is none, the wheel's Valkey."""
    program = shutil.which("redis-server")
    if program is None:
        from worker.demo.backends import valkey_url

        with valkey_url() as url:
            yield url
        return
    from worker.demo.backends import free_ports

    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="imgclust-bench-") as folder:
        process = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_for(port, process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            raise SystemExit(f"redis-server ended with exit code {process.returncode}")
        time.sleep(0.05)
    raise SystemExit("redis-server did not answer within 10 s")


def model_folder() -> Path:
    """`BENCH_MODEL`, or a model of the example's pictures with `mini`, fitted once by the commands."""
    named = os.environ.get("BENCH_MODEL")
    if named:
        return Path(named).expanduser().resolve()
    model = CACHE / "model"
    if not (model / "manifest.json").exists():
        CACHE.mkdir(exist_ok=True)
        embeddings = CACHE / "embeddings"
        for arguments in (
            ["embed", str(CLIPART), "-o", str(embeddings), "--encoder", "mini"],
            ["fit", str(embeddings), "-o", str(model)],
        ):
            print(f"imgclust {' '.join(arguments)}", file=sys.stderr)
            subprocess.run(
                [sys.executable, "-m", "imgclust.cli.arguments", *arguments],
                check=True,
                stdout=sys.stderr,
                cwd=ROOT,
            )
    return model


def clipart_jpegs(count: int = 200) -> list[bytes]:
    """JPEGs of the example, at most 288 pixels long, from all categories alike."""
    files = sorted(CLIPART.glob("*/*.jpg"))
    return [file.read_bytes() for file in files[:: max(1, len(files) // count)][:count]]


def photo_jpegs(count: int = 60) -> list[bytes]:
    """Photographs of 640 × 427: cuts of scikit-learn's two sample pictures, scaled back to their size."""
    import io

    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    originals = [Image.fromarray(picture) for picture in load_sample_images().images]
    jpegs = []
    for i in range(count):
        picture = originals[i % len(originals)]
        part = random.uniform(0.7, 1.0)
        width, height = part * picture.width, part * picture.height
        x, y = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
        file = io.BytesIO()
        picture.resize((640, 427), box=(x, y, x + width, y + height)).save(file, "JPEG", quality=85)
        jpegs.append(file.getvalue())
    return jpegs
