"""benchmarks.gpu: it runs where there is no GPU, and says what the limit is."""

from __future__ import annotations

import json

import pytest

from benchmarks import gpu

STAGES = {
    "worker, batch of 64, predictor on the processor": 1_900.0,
    "worker, batch of 64, predictor on the processor: processor": 0.05,
    "copy from pageable slots, batch of 64": 9_000.0,
    "copy from pinned slots, batch of 64": 40_000.0,
    "encode, batch of 64, bf16, eager": 1_000.0,
    "encode, batch of 64, bf16, graph": 2_000.0,
    "predict, batch of 64, on the processor": 5_000.0,
}


def test_on_a_processor_it_prints_the_same_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage has its figures, the predictor has the processor's bits, and a limit is named."""
    gpu.main(["--device", "fake", "--small"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    values = {line["figure"]: line["value"] for line in lines if "figure" in line}
    encoded = [
        f"encode, batch of {b}, {p}, {how}"
        for b in (2, 4)
        for p in gpu.PRECISIONS
        for how in ("eager", "graph")
    ]
    agreed = [f"agreement, {p}: equal labels" for p in gpu.PRECISIONS]
    there = ["copy from pageable slots, batch of 2", "copy from pinned slots, batch of 2", *encoded, *agreed]
    for name in ("processor", "device"):
        there += [f"predict, batch of {b}, on the {name}" for b in (2, 4)]
        there += [f"both at once, predictor on the {name}: {stage}" for stage in ("encode", "predict")]
        there += [f"worker, batch of {b}, predictor on the {name}" for b in (2, 4)]
    assert {name for name in there if not values.get(name)} == set()
    assert values["agreement, float32: equal labels"] == 100
    assert values["agreement, float32: the same bits in another place of the batch"] == 100
    assert {"predictor on the device": "the processor's bits"} in lines
    assert [line["batch"] for line in lines if "limit" in line] == [2, 4]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "the encoder (2000 images/s; the worker reaches 95 % of it)"),
        (
            {"copy from pinned slots, batch of 64": 1_950.0, "copy from pageable slots, batch of 64": 900.0},
            "copying (",
        ),
        ({"predict, batch of 64, on the processor": 1_910.0}, "the predictor ("),
        ({"encode, batch of 64, bf16, graph": 8_000.0}, "the worker's own threads, 0.050 ms"),
    ],
)
def test_the_limit_is_the_slowest_stage_that_the_worker_keeps_up_with(
    change: dict[str, float], says: str
) -> None:
    """Or, where it does not reach any of them, the worker itself."""
    slow = {**STAGES, **change}
    if "encode, batch of 64, bf16, graph" in change:
        slow["predict, batch of 64, on the processor"] = 9_500.0
    assert gpu.limit(slow, 64).startswith(says)
