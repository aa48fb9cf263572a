"""Coverage-guided fuzzing of one target, with atheris: see `fuzz_targets`.

    python -m tests.hostile.fuzz TARGET [-max_total_time=SECONDS] [further options of libFuzzer] [FOLDER…]

Begins with the corpus of the tests. What it finds is written as `crash-…` into the working folder; the same
command with that file's name runs it again.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["imgclust", "worker"]):
    from tests.hostile import fuzz_targets

from tests.hostile import url_vectors
from tests.hostile.corpus import cases, fuzzed
from tests.hostile.disarmed import disarmed
from tests.hostile.events import STRANGE_IDS, bad_events
from tests.hostile.images import seeds

LARGEST = 65_536  # bytes of an input that the fuzzer makes


def beginnings(target: str) -> list[bytes]:
    """Inputs that the fuzzer starts from."""
    if target == "event":
        sound = [b'{"id":%s,"url":"http://example.com/"}' % repr(i).encode() for i in STRANGE_IDS]
        return [*bad_events(), *sound]
    if target == "url":
        return [vector.replace("{port}", "80").encode() for vector in url_vectors.EVERYTHING]
    if target == "image":
        pictures = [data for _, data in (*seeds().items(), *disarmed(), *fuzzed(10))]
        return [*pictures, *(case.data for case in cases() if not case.name.startswith("cut/"))]
    if target == "fetcher":
        failed = b'{"decoded":[],"failed":[[1,"not-found","fetch","gone",true,2.5]]}'
        return [b'{"ready":1}', b'{"decoded":[[1,0,640,480,9999,0.1,0.2]],"failed":[]}', failed]
    return [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff", b"17", b"Wed, 25 Nov 2026 00:00:00 GMT"]


def main() -> None:
    target, options = sys.argv[1], sys.argv[2:]
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix=f"imgclust-fuzz-{target}-"))
    for number, data in enumerate(beginnings(target)):
        if len(data) <= LARGEST:
            (folder / str(number)).write_bytes(data)
    limits = ["-timeout=20", "-rss_limit_mb=2048", f"-max_len={LARGEST}"]
    replay = any(os.path.isfile(option) for option in options)
    arguments = [sys.argv[0], *limits, *options, *([] if replay else [str(folder)])]
    atheris.Setup(arguments, fuzz_targets.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
