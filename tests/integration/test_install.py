"""deploy/: the image without a container engine. Its script installs, its settings start a worker that tags.

What stays untested is what only an engine does: that the stages of the Dockerfile build, and the base image.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.support import confined, dockerfile
from tests.support.kafka_cluster import Topics
from tests.support.origin import Origin
from tests.support.paths import ROOT
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import settings_for
from worker.demo.backends import Kafka, free_ports
from worker.messages.upload import parse_upload

pytestmark = pytest.mark.slow
DEPLOY = ROOT / "deploy"
SITE = Path(pytest.__file__).parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "imgclust", "worker", "deploy")
# Beside torch: most of what an installation takes is choosing, unpacking and compiling these.
LARGE = frozenset(
    ("anyio", "authlib", "cryptography", "fastavro", "fsspec", "googleapis-common-protos",
     "huggingface-hub", "joblib", "llvmlite", "mpmath", "narwhals", "networkx", "numba", "numpy", "protobuf",
     "pyarrow", "pycparser", "pygments", "pywavelets", "regex", "scikit-learn", "scipy", "sympy",
     "timm", "valkey", "wcwidth")
)  # fmt: skip
FIRST_TAG = 15.0  # seconds from the start of the process to the first tag, where nothing else runs


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def comes_with_torch(name: str) -> bool:
    """What torch's own metadata pins: its CUDA libraries, and the builds that belong to it."""
    return canonical(name).startswith(("torch", "triton", "nvidia-", "cuda-"))


def is_taken(name: str) -> bool:
    """Whether it comes from the environment of this run."""
    return comes_with_torch(name) or canonical(name) in LARGE


def taken_from(site: Path, shown: Path, farm: Path) -> None:
    """A folder that holds what `is_taken` of this run's environment, and nothing else of it, as links."""
    farm.mkdir()
    for found in distributions(path=[str(site)]):
        if is_taken(found.metadata["Name"]):
            for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
                if not (farm / top).is_symlink():
                    (farm / top).symlink_to(shown / top)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A fresh folder that everybody may enter: pytest's own are for one user only."""
    with tempfile.TemporaryDirectory(prefix="imgclust-install-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def fresh_source(folder: Path) -> Path:
    """A copy of what the image is made of."""
    source = folder / "source"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part)
        else:
            shutil.copy(ROOT / part, source / part)
    return source


def processor_seconds(pid: int) -> float:
    """What a process has used so far, all its threads together, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waited_seconds(pid: int) -> float:
    """How long its first thread, which loads everything, could have run and had no processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def test_it_installs_and_tags_with_nothing_but_a_temporary_folder(
    apache_kafka: Kafka, model_folder: Path, origin: Origin, held_out: list[str], redis_store: RedisServer,
    folder: Path,
) -> None:  # fmt: skip
    """deploy/install.sh as nobody, in a fresh folder: what it installs is locked. Then the Dockerfile's entry
    point with the Dockerfile's environment, as nobody, without HOME, capabilities or anything to write to but
    a temporary folder: the first tag within 15 s; its health check agrees; SIGTERM ends it with 0.

    Not installed anew is what is large, above all torch with its 5 GB: it is taken from this run's
    environment, where the same pins put it.
    """
    confined.skip_without_rights()
    python = confined.interpreter()
    image = dockerfile.stages()["cpu"]
    source = fresh_source(folder)
    for name in ("site", "tmp"):
        (folder / name).mkdir()
    shutil.copytree(model_folder, folder / "model")
    taken_from(SITE, folder / "site", folder / "taken")
    subprocess.run(["chown", "-R", str(confined.USER), str(folder)], check=True)

    show = (SITE, folder / "site")
    pips = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    env = {"PATH": os.defpath, "TMPDIR": str(folder / "tmp"), **pips}
    venv = folder / "venv"
    confined.run(confined.confined(python, "-m", "venv", str(venv), env=env), folder, 120)
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "taken.pth").write_text(f"{folder / 'taken'}\n")
    extras = next(rest for rest in dockerfile.stages()["dependencies-cpu"].all("ARG") if "EXTRAS" in rest)
    script = str(source / "deploy" / "install.sh")
    env |= {
        "TORCH_INDEX": (folder / "asked-by-nobody").as_uri(),
        "EXTRAS": extras.partition("=")[2] + ",demo",
    }
    confined.run(confined.confined(script, str(venv), env=env, show=show), folder, 900)

    pins = (line.partition("==") for line in (source / "constraints.txt").read_text().splitlines())
    pinned = {canonical(name): version for name, _, version in pins}
    taken = [found for found in distributions(path=[str(SITE)]) if is_taken(found.metadata["Name"])]
    there = [*distributions(path=[str(site)]), *taken]
    versions = {canonical(found.metadata["Name"]): found.version for found in there}
    loose = [
        (name, version, pinned.get(name)) for name, version in versions.items()
        if name not in ("pip", "imgclust") and not comes_with_torch(name) and version != pinned.get(name)
    ]  # fmt: skip
    assert not loose, "not as in constraints.txt"
    assert versions.keys() >= LARGE, "it is not installed any more"

    topics = Topics(apache_kafka)
    for i, name in enumerate(held_out[:4]):
        event = {"id": f"u{i}", "url": origin.url(f"/{name}")}
        topics.send(f"u{i}".encode(), json.dumps(event).encode(), i)
    topics.flush()
    (port,) = free_ports(1)
    env = {
        "TMPDIR": str(folder / "tmp"),
        **image.env,
        "PATH": f"{venv / 'bin'}:{os.defpath}",
        **settings_for(topics, redis_store.url, folder / "model", origin.port),
        "WORKER_FETCH_ALLOW_NETWORKS": "127.0.0.0/8",
        "WORKER_HTTP": f"127.0.0.1:{port}",
        "WORKER_FETCHERS": "1",
        "OMP_NUM_THREADS": "1",  # as the manifests do; on shared cores more threads wait for each other
    }
    tags = topics.reader(topics.tags)
    command = [*image.command("ENTRYPOINT"), *image.command("CMD")]
    with (folder / "log").open("wb") as log:
        started = time.monotonic()
        worker = subprocess.Popen(
            confined.confined(*command, env=env, writable=folder / "tmp", show=show),
            cwd="/", stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for("a tag", lambda: tags.read(0.1) or worker.poll() is not None)
        took, used = time.monotonic() - started, processor_seconds(worker.pid)
        stood = waited_seconds(worker.pid)
        assert worker.poll() is None, (folder / "log").read_text()[-4000:]
        wait_for("all four tags", lambda: tags.read(0.1) and len(tags.last()) == 4)
        healthy = confined.confined(*image.command("HEALTHCHECK"), env=env, show=show)
        confined.run(healthy, Path("/"), 60)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, (folder / "log").read_text()[-4000:]
        assert subprocess.run(healthy, capture_output=True, cwd="/").returncode != 0
    finally:
        tags.close()
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        worker.wait()
    print(f"first tag after {took:.1f} s, {used:.1f} s of a processor, {stood:.1f} s of waiting for one")
    # elsewhere other work may share the cores
    assert took - stood < (FIRST_TAG if os.environ.get("CI") else PATIENCE)


def test_the_bill_of_materials_lists_what_is_installed(folder: Path) -> None:
    """The step `sbom`: each package with its version and licence, and not the tool that made the list."""
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "made_up-1.2.3.dist-info").mkdir()
    fields = "Metadata-Version: 2.4\nName: made-up\nVersion: 1.2.3\nLicense-Expression: Apache-2.0\n"
    (site / "made_up-1.2.3.dist-info" / "METADATA").write_text(fields)
    confined.run([str(DEPLOY / "install.sh"), str(venv), "sbom"], folder, 300)
    made = json.loads((venv / "sbom.cdx.json").read_text())
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    listed = {(component["name"], component["version"]) for component in made["components"]}
    assert listed == {(d.metadata["Name"], d.version) for d in distributions(path=[str(site)])}
    (ours,) = (component for component in made["components"] if component["name"] == "made-up")
    assert ours["licenses"][0]["license"]["id"] == "Apache-2.0"
    assert ours["purl"] == "pkg:pypi/made-up@1.2.3"


def test_the_sample_producer_writes_what_the_worker_reads(mock_kafka: Kafka) -> None:
    """deploy/producer.py: every event is an upload, keyed by its id; some are taken back."""
    topics = Topics(mock_kafka)
    labels = ROOT / "examples" / "clipart" / "labels.csv"
    command = [DEPLOY / "producer.py", labels, "http://pictures:8080", "--rate", "10000", "--count", "200"]
    env = {**os.environ, "WORKER_BOOTSTRAP_SERVERS": topics.bootstrap, "WORKER_UPLOADS_TOPIC": topics.uploads}
    confined.run([sys.executable, *map(str, command)], ROOT, 60, env)
    events = topics.reader(topics.uploads)
    try:
        wait_for("all events", lambda: len(events.read(0.1)) == 202)
        read = [parse_upload(m.value(), m.key(), 0) for m in events.messages]
        assert [u.id.encode() for u in read] == [m.key() for m in events.messages]
        assert sum(u.deleted for u in read) == 2
        assert {u.id for u in read if u.deleted} < {u.id for u in read if not u.deleted}
    finally:
        events.close()
