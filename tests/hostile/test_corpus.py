"""The corpus of bad images against `imgclust.images.decode`: the right code for each, quickly, in little
memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.hostile.corpus import Case, cases, fuzzed
from tests.hostile.images import DECODE, FORMAT, MAX_PIXELS, PIXELS

Verdicts = tuple[dict[str, tuple[str, str, float]], list[str]]  # name → code, text, seconds; plugins

# Private memory that decoding may take, as the worker bounds it: see `worker.fetching.pool.memory_needed`.
MEMORY = 256 * 1024 * 1024 + 24 * MAX_PIXELS
SLOW = 2.0  # seconds of processor time; each takes milliseconds, and what the bombs are built for is minutes

_CHILD = """
import json, resource, sys, time, warnings
from tests.hostile import corpus
from tests.hostile import disarmed
from imgclust.images.decode import Limits, decode
from imgclust.errors import ImageError
from imgclust.types import Preprocessing

warnings.simplefilter("ignore")
loaded = lambda: {m for m in sys.modules if m.startswith("PIL.") and m.endswith("Plugin")}
todo = [(c.name, c.data) for c in corpus.cases()] + list(corpus.fuzzed())
todo += [("disarmed/" + name, data) for name, data in disarmed.disarmed()]
for module in loaded():  # the corpus was made with all of Pillow
    del sys.modules[module]
memory = int(sys.argv[1]) + sum(len(data) for _, data in todo)
resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
preprocessing, limits = Preprocessing(size=224, resize=224), Limits(max_pixels=corpus.MAX_PIXELS)
for name, data in todo:
    started = time.process_time()
    try:
        decode(data, preprocessing, limits)
        code, text = "decoded", ""
    except ImageError as error:
        code, text = error.code, str(error)
    print(json.dumps([name, code, text, time.process_time() - started]))
print(json.dumps(sorted(loaded())))
"""


@pytest.fixture(scope="module")
def verdicts() -> Verdicts:
    """What a process of its own, with bounded memory, makes of it all; and the plugins that it loaded."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(MEMORY)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, plugins = map(json.loads, done.stdout.splitlines())
    return {name: (code, text, seconds) for name, code, text, seconds in lines}, plugins


def test_the_corpus_is_large_and_of_all_kinds() -> None:
    """A thousand and more, no two of one name, each code of decoding often, and the same when made again."""
    made = cases()
    assert len({case.name for case in made}) == len(made) > 1_000
    assert min(Counter(case.code for case in made)[code] for code in (DECODE, PIXELS, FORMAT)) > 100
    assert made == cases.__wrapped__()
    assert len(list(fuzzed())) > 400


def test_each_bad_image_ends_with_the_right_code(verdicts: Verdicts) -> None:
    """What was cut, blown up, mislabelled or lied about is refused for the reason that it was made for."""
    found, _ = verdicts
    wrong = {case.name: found[case.name] for case in cases() if found[case.name][0] != case.code}
    assert not wrong


def test_what_pillow_refuses_is_refused(verdicts: Verdicts) -> None:
    """Fuzzed bytes end with a code of decoding, whichever, and never as a picture."""
    found, _ = verdicts
    codes = {found[name][0] for name, _ in fuzzed()}
    assert codes <= {DECODE, PIXELS, FORMAT}


def test_traps_in_metadata_do_not_spoil_a_picture(verdicts: Verdicts) -> None:
    """Profiles, texts and EXIF that unpack to too much are never looked at; the picture is decoded."""
    found, _ = verdicts
    disarmed = {name: verdict for name, verdict in found.items() if name.startswith("disarmed/")}
    assert len(disarmed) > 15
    assert {verdict[0] for verdict in disarmed.values()} == {"decoded"}, disarmed


def test_no_bad_image_is_slow_or_speaks_out_of_turn(verdicts: Verdicts) -> None:
    """The memory bound held, or the process would not have ended well; no image took long; texts are one
    bounded, printable line."""
    found, _ = verdicts
    assert not {name: seconds for name, (_, _, seconds) in found.items() if seconds > SLOW}
    assert all(text.isprintable() and len(text) < 400 for _, text, _ in found.values())


def test_no_decoder_of_another_format_is_loaded(verdicts: Verdicts) -> None:
    """Of Pillow's dozens of plugins, only those on the list are ever imported for a stranger's bytes."""
    _, plugins = verdicts
    listed = {"Jpeg", "Png", "WebP", "Gif", "Avif", "Bmp", "Tiff"}
    assert {name.removeprefix("PIL.").removesuffix("ImagePlugin") for name in plugins} == listed


def test_a_case_does_not_print_its_bytes() -> None:
    """A failing test shows names, not megabytes."""
    assert "\\x" not in repr(Case("x", b"\xff" * 1000, DECODE))
