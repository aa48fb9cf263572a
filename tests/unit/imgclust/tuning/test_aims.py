"""Aims: what they mean, what is refused, which trials nothing beats."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import FitError
from imgclust.tuning.aims import Aim, TrialFigures, best_compromises, score

SHARES = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
FIGURES = st.builds(
    TrialFigures,
    clusters=st.integers(0, 60),
    other=SHARES,
    stability=SHARES,
    validity=st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    ami=st.none() | SHARES,
)
AIMS = st.lists(
    st.sampled_from(
        ["clusters=10..30", "clusters=4", "other", "other=10%", "stability", "validity", "ami"]
    ).map(Aim.parse),
    min_size=1,
    max_size=4,
)


@given(AIMS, FIGURES)
def test_a_score_is_a_share(aims: list[Aim], found: TrialFigures) -> None:
    """However figures are, an aim is met between not at all and wholly; what is stated is read back."""
    assert 0 <= score(aims, found) <= 1
    assert all(0 <= aim.met(found) <= 1 for aim in aims)
    assert [Aim.parse(str(aim)) for aim in aims] == aims


def test_each_aim_is_met_where_it_should_be() -> None:
    found = TrialFigures(clusters=20, other=0.1, stability=0.8, validity=0.4, ami=0.6)
    met = {
        text: Aim.parse(text).met(found)
        for text in ("clusters=10..30", "other=10%", "stability", "validity", "ami")
    }
    assert met == {"clusters=10..30": 1, "other=10%": 1, "stability": 0.8, "validity": 0.4, "ami": 0.6}
    assert Aim.parse("clusters=40").met(found) == Aim.parse("clusters=10").met(found) == 0.5
    assert Aim.parse("other").met(found) == pytest.approx(0.9)
    assert Aim.parse("other=10%").met(dataclasses.replace(found, other=0.55)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text", ["", "size", "clusters", "clusters=0", "clusters=9..3", "clusters=x", "other=200%", "stability=1"]
)
def test_what_is_no_aim_is_refused(text: str) -> None:
    """The error says which there are."""
    with pytest.raises(FitError, match="an aim is"):
        Aim.parse(text)


@given(AIMS, st.lists(FIGURES, min_size=1, max_size=12))
def test_nothing_beats_a_compromise(aims: list[Aim], trials: list[TrialFigures]) -> None:
    """One that is marked is beaten by none; one that is not, by one that is; the best score is marked."""
    marked = best_compromises(aims, trials)
    met = [tuple(aim.met(trial) for aim in aims) for trial in trials]

    def beats(a: int, b: int) -> bool:
        return met[a] != met[b] and all(x >= y for x, y in zip(met[a], met[b], strict=True))

    for i, good in enumerate(marked):
        assert good != any(beats(j, i) for j in range(len(trials)))
        assert good or any(marked[j] and beats(j, i) for j in range(len(trials)))
    assert marked[max(range(len(trials)), key=lambda i: sum(met[i]))]
