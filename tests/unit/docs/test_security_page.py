"""docs/security.md says what the code does: each limit's default is the setting's or the constant's."""

from __future__ import annotations

import importlib
import re

import pytest

from imgclust.images.containers import FORMATS
from tests.support.paths import ROOT
from worker.settings.table import SETTINGS

PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [
    (found[1], found[2])
    for line in PAGE.splitlines()
    if (found := re.fullmatch(r"\| [^|]+ \| `([\w.]+)` \| (.+) \|", line))
]
DEFAULTS = {setting.env: setting.default for setting in SETTINGS}


def default_of(place: str) -> str:
    """A setting's default, or the value of a constant: `module.NAME`, or `module.Class.field`."""
    if place in DEFAULTS:
        return DEFAULTS[place] or ""
    module, _, name = place.rpartition(".")
    try:
        value = getattr(importlib.import_module(module), name)
    except ImportError:
        module, _, kind = module.rpartition(".")
        value = getattr(getattr(importlib.import_module(module), kind)(), name)
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize(
    ("place", "shown"), [row for row in ROWS if row[0] != "imgclust.images.containers.FORMATS"]
)
def test_each_default_is_the_codes(place: str, shown: str) -> None:
    """A setting without a default is shown as "none", every other one by its value."""
    default = default_of(place)
    if default:
        found = re.match(r"`([^`]+)`", shown)
        assert found, shown
        assert found[1] == default
    else:
        assert shown.startswith("none")


def test_every_setting_that_guards_is_on_the_page() -> None:
    """All settings of fetching and decoding have their row, and so has the HTTP port."""
    wanted = {s.env for s in SETTINGS if s.name.startswith(("fetch_", "max_pixels", "decode_", "http"))}
    assert wanted <= {place for place, _ in ROWS}
    assert len(ROWS) > 35


def test_the_formats_are_those_that_are_decoded() -> None:
    """No format is decoded that the page does not name."""
    names = {name.upper() for name in re.findall(r"\w+", dict(ROWS)["imgclust.images.containers.FORMATS"])}
    assert set(FORMATS) <= names
