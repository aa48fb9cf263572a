"""The page of pictures in groups: offline, hostile names as text, a bound on its size."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from imgclust.errors import ImgclustError
from imgclust.report import pictures
from imgclust.report.pictures import Picture, PictureGroup, page, write_pictures
from tests.support.report_sample import ATTACKS, webp


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_hostile_names_are_text() -> None:
    """No element but those of the page, and nothing is loaded from anywhere."""
    shown = [Picture(attack, attack, webp((9, 9, 9))) for attack in ATTACKS]
    found = Elements()
    found.feed(
        page(
            ATTACKS[0], ATTACKS[1], [PictureGroup(ATTACKS[2], ATTACKS[3], [*shown, Picture("a", "b", None)])]
        )
    )
    assert found.tags.count("img") == len(ATTACKS)
    assert not {"script", "svg"} & set(found.tags)
    assert all(source.startswith("data:image/webp;base64,") for source in found.sources)
    assert set(ATTACKS) <= set(found.texts)


def test_pictures_beyond_the_bound_are_named_only(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = webp((9, 9, 9))
    monkeypatch.setattr(pictures, "MAX_BYTES", 2 * len(picture))
    found = Elements()
    found.feed(page("t", "", [PictureGroup("", "", [Picture(f"{i}", "", picture) for i in range(3)])]))
    assert found.tags.count("img") == 2
    assert "no picture here" in found.texts


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ImgclustError, match="in an existing folder"):
        write_pictures(tmp_path / "missing" / "page.html", "t", "", [])
