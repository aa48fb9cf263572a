"""What a process may see and take that decodes what strangers send."""

from __future__ import annotations

import contextlib
import os
import resource
import sys

# Of private memory: 110 MB to begin with and room for fragments; what the hungriest decoder takes, 20 bytes a
# pixel (lossless WebP, measured at 50 million; PNG 14, JPEG 8).
BASE_MEMORY = 256 * 1024 * 1024
PIXEL_MEMORY = 24

_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH",
                "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "RES_OPTIONS")  # fmt: skip


def environment(also: str = "") -> dict[str, str]:
    """What such a process sees of the environment: no setting, for a setting may be a password.

    Args:
        also: names that begin so are passed on too; empty: none.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or (also and name.startswith(also))
    }
    # a pool of threads in each process would only cost memory
    one = dict.fromkeys(
        ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKIO_WORKER_THREADS"), "1"
    )
    return {**kept, **one, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def memory_needed(max_pixels: int, held: int) -> int:
    """Bytes of private memory that it may take.

    Args:
        held: bytes of files that it holds at once.
    """
    return BASE_MEMORY + held + PIXEL_MEMORY * max_pixels


def confine(memory_limit: int) -> None:
    """Bound what this process may take: private memory; no core file, which would hold strangers' bytes."""
    for what, limit in ((resource.RLIMIT_DATA, memory_limit), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(what, (limit, limit))
