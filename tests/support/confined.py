"""Runs a program as a container would: as an unprivileged user, without capabilities, on a read-only root.

Needs root and Linux: `unshare` gives the program mounts of its own, which vanish with it, and `setpriv` takes
every right away. Nothing outside of that program's sight is changed.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

USER = 65534  # nobody: owns nothing
_TOOLS = ("unshare", "mount", "setpriv", "findmnt")

# $1: folder that is the only writable one, or ""; $2: folder to show at $3, or "". The rest is the program.
_SCRIPT = f"""
set -eu
writable=$1 from=$2 to=$3
shift 3
mount --make-rprivate /
if [ -n "$from" ]; then mount --bind "$from" "$to"; fi
if [ -n "$writable" ]; then
  findmnt --raw --noheadings --output TARGET --types noproc,nosysfs,nocgroup,nocgroup2,nodevpts | sort -u |
    while read -r target; do mount -o remount,bind,ro "$target" 2>/dev/null || true; done
  mount -t tmpfs -o mode=1777 tmpfs "$writable"
fi
exec setpriv --reuid={USER} --regid={USER} --clear-groups \\
  --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
"""


def confined(
    *command: str, env: Mapping[str, str], writable: Path | None = None, show: tuple[Path, Path] | None = None
) -> list[str]:
    """The command that runs `command` as nobody, with `env` as its whole environment.

    Args:
        writable: an existing folder; when given, a temporary file system there is all that can be written.
        show: a folder and the place where the program sees it, whoever may look into it elsewhere.
    """
    return [
        "unshare", "--mount", "sh", "-c", _SCRIPT, "confined",
        str(writable or ""), *(map(str, show) if show else ("", "")),
        "env", "-i", *(f"{name}={value}" for name, value in env.items()), *command,
    ]  # fmt: skip


def skip_without_rights() -> None:
    """Skip the test where no such program can be made."""
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    if missing or os.name != "posix" or os.geteuid() != 0:
        pytest.skip(f"needs root and util-linux (missing: {', '.join(missing) or 'root'})")
    tried = subprocess.run(
        confined("true", env={"PATH": os.defpath}, writable=Path("/mnt")), capture_output=True
    )
    if tried.returncode:
        pytest.skip(f"mounts of its own are not allowed here: {tried.stderr.decode()[-200:]}")


@functools.cache
def interpreter() -> str:
    """A Python of this version that everybody may run; the one of the tests may lie in somebody's home."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    shown = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    names = (os.path.realpath(sys.executable), f"/usr/bin/python{ours}", f"/usr/local/bin/python{ours}")
    for name in names:
        done = subprocess.run(
            confined(name, "-c", shown, env={"PATH": os.defpath}), capture_output=True, text=True, cwd="/"
        )
        if done.returncode == 0 and done.stdout.strip() == ours:
            return name
    pytest.skip(f"no Python {ours} with venv that nobody may run: {', '.join(names)}")


def run(command: Sequence[str], cwd: Path, timeout: float, env: Mapping[str, str] | None = None) -> str:
    """Run to the end, by default with this process's environment; what it printed.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout
