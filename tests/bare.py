"""Runs tests as on a machine that has nothing but Python: no Redis, Kafka or browser of Debian.

    python -m tests.bare [ARGUMENTS of pytest]

What the tests need of such programs they skip, and say so; what they do not skip must pass. Without arguments
it is a part that takes few minutes: what touches Redis, the browser, the command-line tools and the wheel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.paths import ROOT

# what a container of python:3.11-slim has, as far as tests use it
KEPT = ("openssl", "sh", "bash", "env", "git", "cat", "ls", "rm", "ps", "true", "sleep", "uname")
LACKING = ("redis-server", "redis-cli", "valkey-server", "kcat", "prometheus", "promtool", "chromium", "java")
PART = (
    "tests/unit/deploy", "tests/unit/worker/view", "tests/unit/worker/wall", "tests/contracts",
    "tests/integration/test_secured.py", "tests/integration/test_redis_view.py",
    "tests/integration/test_scrape.py", "tests/integration/test_watched.py",
    "tests/integration/test_wall_browser.py", "tests/integration/test_report_browser.py",
    "tests/integration/test_restore.py",
)  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """A PATH that lacks what a fresh machine lacks, and no Kafka."""
    for name in KEPT:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    hidden = ("KAFKA_HOME", "TEST_KAFKA_BOOTSTRAP", "JAVA_HOME")
    clean = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**clean, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{folder}"}


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="imgclust-bare-") as folder:
        env = environment(Path(folder))
        there = [name for name in LACKING if shutil.which(name, path=env["PATH"])]
        if there:
            print(f"this environment has {', '.join(there)} beside its Python", file=sys.stderr)
            return 1
        arguments = sys.argv[1:] or ["-q", *PART]
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
