"""A short run of the fuzz targets: bytes at random, and sound inputs with a few bytes changed."""

from __future__ import annotations

import random
import sys
import warnings

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import fuzz_targets
from tests.hostile.corpus import mutated
from tests.hostile.events import STRANGE_IDS, bad_events
from tests.hostile.images import seeds
from tests.hostile.url_vectors import EVERYTHING

SOUND = {
    "event": [
        *(orjson.dumps({"id": i, "url": "http://example.com/", "attributes": {"n": 1}}) for i in STRANGE_IDS),
        *(value for value in bad_events() if 0 < len(value) < 1_000),
    ],
    "url": [vector.replace("{port}", "80").encode() for vector in EVERYTHING if vector],
    "image": list(seeds().values()),
    "fetcher": [
        b'{"decoded":[[1,0,640,480,9999,0.1,0.2]],"failed":[[2,"not-found","fetch","gone",true,2.5]]}',
        b'{"ready":1}',
    ],
    "answer": [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff", b"Wed, 25 Nov 2026 00:00:00 GMT"],
}


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_target_holds(target: str, data: st.DataObject) -> None:
    """Whatever comes in ends as a checked value or as the one error for it; see the target's docstring."""
    random_bytes = st.binary(max_size=400)
    changed = st.builds(
        lambda sound, seed: mutated(sound, random.Random(seed)),
        st.sampled_from(SOUND[target]),
        st.integers(0, 2**32),
    )
    with warnings.catch_warnings(action="ignore"):
        fuzz_targets.TARGETS[target](data.draw(changed | random_bytes))


def test_the_fuzzer_is_no_part_of_the_tests() -> None:
    """`make fuzz` alone needs it."""
    assert "atheris" not in sys.modules
