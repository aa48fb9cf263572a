"""Certificates of a test's own, made by openssl: an authority, and a server for `localhost` and 127.0.0.1."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest


@dataclasses.dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: the authority's certificate; the server's certificate, its key, and both in one."""

    authority: Path
    certificate: Path
    key: Path
    both: Path


def make(folder: Path) -> Certificates:
    """Make them in a folder; without openssl the test is skipped."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(*(folder / name for name in ("ca.pem", "server.pem", "server.key", "both.pem")))
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    authority = ["-subj", "/CN=authority", "-keyout", str(folder / "ca.key"), "-out", str(made.authority)]
    server = ["-subj", "/CN=localhost", "-keyout", str(made.key), "-out", str(made.certificate)]
    signing = ["-CA", str(made.authority), "-CAkey", str(folder / "ca.key")]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    for command in ([*new, *authority], [*new, *signing, *names, *server]):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    made.both.write_text(made.key.read_text() + made.certificate.read_text() + made.authority.read_text())
    return made
