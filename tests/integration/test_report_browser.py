"""The report page in a real browser: what it does, and what it must not do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imgclust.report.page import write_page
from tests.support import chromium
from tests.support.report_sample import ATTACKS, hostile_report

BINARY = chromium.executable()
pytestmark = pytest.mark.skipif(
    BINARY is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)"
)

DESKTOP = (1280, 900)
PHONE = (390, 844)


@pytest.fixture(scope="module")
def session() -> Iterator[chromium.Page]:
    assert BINARY
    with chromium.browser(BINARY) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(hostile_report(), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def page(session: chromium.Page, report: Path) -> Iterator[chromium.Page]:
    """The hostile report, just opened. Afterwards: it complained of nothing and asked for nothing else."""
    session.complaints.clear()
    session.requests.clear()
    session.show(*DESKTOP)
    session.open(report)
    yield session
    session.settle()
    assert session.complaints == []
    asked = {url for url in session.requests if not url.startswith("data:")}
    assert asked == {report.as_uri()}
    assert session.js("window.pwned") is None


def point(page: chromium.Page, image: int) -> tuple[float, float]:
    """Where an image of the hostile report is on the screen while the whole map is shown."""
    left, top, width, height = page.js(
        "(() => { const m = document.getElementById('map'); m.scrollIntoView({block: 'center'});"
        " const b = m.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
    )
    data = hostile_report()
    margin = 18 if min(width, height) < 480 else 36
    scale = min((width - 2 * margin) / np.ptp(data.x), (height - 2 * margin) / np.ptp(data.y))
    middle_x, middle_y = (data.x.max() + data.x.min()) / 2, (data.y.max() + data.y.min()) / 2
    return (
        float(left + width / 2 + (data.x[image] - middle_x) * scale),
        float(top + height / 2 - (data.y[image] - middle_y) * scale),
    )


def visible(page: chromium.Page, selector: str) -> int:
    """How many of the elements are shown."""
    return int(
        page.js(f"[...document.querySelectorAll('{selector}')].filter(e => e.checkVisibility()).length")
    )


def loneliest() -> int:
    """An image of a cluster that no other image is near, so that a click can only mean it."""
    data = hostile_report()
    places = np.stack([data.x, data.y], 1)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    alone = apart.min(axis=1)
    alone[data.labels < 0] = 0
    return int(np.argmax(alone))


def test_hostile_names_are_text(page: chromium.Page) -> None:
    """Names and ids made to break out of the page are shown letter by letter, and none becomes an element."""
    text = page.js("document.body.textContent")
    for attack in ATTACKS[:4]:
        assert f"{attack} " in text
    assert page.js("document.querySelectorAll('script').length") == 2
    assert page.js("document.querySelectorAll('svg, [onerror], [onload], iframe').length") == 0
    assert page.js("document.title") == "Model 0123456789ab"


def test_every_cluster_has_a_card_and_a_filter(page: chromium.Page) -> None:
    """Eight clusters are eight cards of 24 pictures and, with "other", nine filters."""
    assert visible(page, ".card") == 8
    assert page.js("document.querySelectorAll('.card .pictures button').length") == 8 * 24
    assert visible(page, ".legend-row") == 9
    page.js("document.querySelector('.card').scrollIntoView()")
    page.wait("document.querySelectorAll('.card img').length >= 24")
    assert page.js("[...document.images].every(i => i.src.startsWith('data:image/webp;base64,'))")


def test_a_cluster_without_a_name_is_called_by_what_it_holds(page: chromium.Page) -> None:
    """Cluster 7 has no name; all its pictures are of one category, so it is called after that."""
    names = page.js("[...document.querySelectorAll('.legend .unnamed')].map(e => e.textContent)")
    assert names == [f"mostly {ATTACKS[1]} odd"]


def test_the_map_is_drawn(page: chromium.Page) -> None:
    """The canvas holds many colours, not an empty sheet."""
    colours = page.js(
        "(() => { const c = document.getElementById('map'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; const s = new Set();"
        " for (let i = 0; i < d.length; i += 4)"
        " if (d[i + 3] > 200) s.add([d[i] >> 4, d[i + 1] >> 4, d[i + 2] >> 4].join());"
        " return s.size; })()"
    )
    assert colours > 8


def test_search_finds_by_file_name(page: chromium.Page) -> None:
    """Typing a part of a name leaves the pictures that have it, says how many, and lists them."""
    page.type("#search", "-00017.JPG")
    page.wait("document.getElementById('found').textContent === '1 picture in 1 cluster'")
    assert visible(page, "#results .image-row") == 1
    assert visible(page, ".card") == 1
    page.press("#clear")
    assert page.text("#found") == ""
    assert visible(page, ".card") == 8


def test_search_for_nothing_says_so(page: chromium.Page) -> None:
    """A word that no picture has leaves an empty list with a remedy, not an error."""
    page.type("#search", "no such picture")
    page.wait("document.getElementById('found').textContent === 'No pictures'")
    assert "Nothing matches" in page.text("#results")


def test_pictures_in_no_cluster_are_counted_as_such(page: chromium.Page) -> None:
    """A cluster and "other" together: how many are in the cluster, and how many are in none."""
    page.press(".legend-row:last-child")
    page.wait("document.getElementById('found').textContent === '40 pictures in no cluster'")
    page.press(".legend-row")
    page.wait("document.getElementById('found').textContent.endsWith(' in 1 cluster, 40 in no cluster')")
    page.press("#clear")


def test_other_is_browsed(page: chromium.Page) -> None:
    """What is in no cluster is shown by reason and by nearest cluster; a picture of it says both."""
    assert page.text("#other-note") == "40 pictures in no cluster"
    reasons = page.js("[...document.querySelectorAll('#other-filters select')[0].options].map(o => o.text)")
    assert reasons[0] == "Any reason (40)"
    assert sum(int(text.split("(")[1][:-1]) for text in reasons[1:]) == 40
    pick = "document.querySelectorAll('#other-filters select')[{}]"
    for select in (0, 1):
        page.js(
            f"(() => {{ const s = {pick.format(select)}; s.selectedIndex = 1;"
            " s.dispatchEvent(new Event('change')); })()"
        )
    shown = page.js("document.querySelectorAll('#other-pictures button').length")
    assert 0 < shown < 40
    assert page.text("#other-note").startswith(f"{shown} picture")
    page.press("#other-pictures button")
    assert "In no cluster: " in page.text("#inspector")
    assert visible(page, "#inspector .meter") >= 1
    page.press("#close")


def test_typical_borderline_and_random_pictures(page: chromium.Page) -> None:
    """The cards show the kind of pictures that is chosen, each kind another choice of the same cluster."""

    def first_card() -> list[str]:
        return list(
            page.js("[...document.querySelectorAll('.card:first-child [data-image]')].map(b => b.title)")
        )

    def choose(kind: str) -> None:
        page.js(
            f"(() => {{ const s = document.getElementById('kind'); s.value = '{kind}';"
            " s.dispatchEvent(new Event('change')); })()"
        )

    found = {}
    for kind in ("pictures", "borderline", "random"):
        choose(kind)
        found[kind] = first_card()
    assert len({tuple(images) for images in found.values()}) == 3
    assert "least certain" not in page.text("#kind-note")
    assert 0 < len(found["borderline"]) <= 24
    choose("pictures")


def test_filter_by_cluster(page: chromium.Page) -> None:
    """A cluster's row in the legend leaves only its card; a second press gives all back."""
    page.press(".legend-row")
    assert page.js("document.querySelector('.legend-row').getAttribute('aria-pressed')") == "true"
    assert visible(page, ".card") == 1
    page.press(".legend-row")
    assert visible(page, ".card") == 8


def test_filter_by_category(page: chromium.Page) -> None:
    """The attribute "category" is a filter; "who" has too many values to be one."""
    assert page.js("document.querySelectorAll('#facets select').length") == 1
    page.js(
        "(() => { const s = document.querySelector('#facets select');"
        " s.value = [...s.options].find(o => o.text.endsWith('even')).value;"
        " s.dispatchEvent(new Event('change')); })()"
    )
    assert page.text("#found").startswith("200 pictures: 177 in 4 clusters, 23 in ")


def test_a_click_shows_the_picture_and_its_neighbours(page: chromium.Page) -> None:
    """A click on a point names the picture, its probability and the eight nearest on the map, each a link."""
    data = hostile_report()
    image = loneliest()
    page.click(*point(page, image))
    shown = page.text("#inspector")
    assert data.ids[image] in shown
    assert f"{25 * (1 + image % 3)} %" in shown
    places = np.stack([data.x, data.y], 1)
    nearest = np.argsort(np.linalg.norm(places - places[image], axis=1))[1:4]
    listed = page.js(
        "[...document.querySelectorAll('#inspector .image-list .image-id')].map(e => e.textContent)"
    )
    assert listed[:3] == [data.ids[i] for i in nearest]
    assert len(listed) == 8
    page.press("#inspector .image-row")
    assert data.ids[nearest[0]] in page.text("#inspector .hero")
    page.key("Escape")
    assert visible(page, "#inspector") == 0
    assert visible(page, ".legend-row") == 9


def test_a_typical_picture_leads_to_the_map(page: chromium.Page) -> None:
    """A press on a picture of a card chooses it, and Close gives the focus back."""
    page.press(".card .pictures button")
    assert visible(page, "#inspector") == 1
    assert page.js("document.activeElement.id") == "inspector"
    page.press("#close")
    assert page.js("document.activeElement.dataset.image") is not None


def test_the_keyboard_is_enough(page: chromium.Page) -> None:
    """With the keyboard alone: to the search, to the map, zoom, choose the picture in the middle, let go."""
    page.key("/")
    assert page.js("document.activeElement.id") == "search"
    page.js("document.getElementById('map').focus()")
    page.key("+")
    page.key("Enter")
    assert visible(page, "#inspector") == 1
    page.key("Escape")
    assert visible(page, "#inspector") == 0
    reachable = page.js(
        "[...document.querySelectorAll('button, select, input')].every(e => e.tabIndex === 0)"
    )
    named = page.js(
        "[...document.querySelectorAll('button')]"
        ".every(e => (e.getAttribute('aria-label') || e.textContent).trim())"
    )
    assert (reachable, named) == (True, True)


def test_the_wheel_is_the_pages_until_the_map_is_used(page: chromium.Page) -> None:
    """Scrolling over the map scrolls the page; once the map was clicked, the wheel zooms it instead."""
    x, y = point(page, loneliest())
    before = page.js("scrollY")
    page.command("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-60)
    page.wait(f"scrollY < {before}")
    x, y = point(page, loneliest())
    page.click(x, y)
    before = page.js("scrollY")
    page.command("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-400)
    page.wait("document.getElementById('map').style.touchAction === 'none'")  # as it is while zoomed in
    assert page.js("scrollY") == before


def test_light_and_dark(page: chromium.Page, report: Path) -> None:
    """The page follows the system's theme, and the button goes against it."""

    def brightness() -> int:
        return int(
            page.js("Number(getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0])")
        )

    assert brightness() > 200
    page.show(*DESKTOP, dark=True)
    page.open(report)
    assert brightness() < 60
    page.press("#theme")  # light
    assert brightness() > 200
    page.press("#theme")  # dark
    assert brightness() < 60


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_it_without_scrolling_sideways(page: chromium.Page, report: Path, width: int) -> None:
    """Nothing is wider than the screen of a phone, also with a picture chosen and long results."""
    page.show(width, PHONE[1], phone=True)
    page.open(report)

    def fits() -> bool:
        return bool(page.js(f"document.documentElement.scrollWidth <= {width} && innerWidth <= {width}"))

    assert fits()
    page.type("#search", "folder1")
    page.wait("document.getElementById('found').textContent.includes('pictures')")
    assert fits()
    page.press("#results .image-row")
    assert visible(page, "#inspector") == 1
    assert fits()


def test_a_tap_chooses(page: chromium.Page, report: Path) -> None:
    """A finger's tap near a point chooses it."""
    page.show(*PHONE, phone=True)
    page.open(report)
    x, y = point(page, loneliest())
    page.touch([(x + 4, y + 4)])
    page.wait("!document.getElementById('inspector').hidden")
    assert hostile_report().ids[loneliest()] in page.text("#inspector")


def test_fingers_scroll_pinch_and_pan(page: chromium.Page, report: Path) -> None:
    """One finger on the whole map scrolls the page; two zoom the map alone; then one finger pans it."""
    page.show(*PHONE, phone=True)
    page.open(report)
    page.js("document.getElementById('map').scrollIntoView({block: 'center'})")
    x, y = PHONE[0] / 2, PHONE[1] / 2
    upwards = [(x, y - step) for step in range(0, 150, 10)]
    before = page.js("scrollY")
    page.touch(upwards)
    page.wait(f"scrollY > {before}")
    page.js("document.getElementById('map').scrollIntoView({block: 'center'})")
    page.touch([(x - d, y) for d in (30, 60, 90)], [(x + d, y) for d in (30, 60, 90)])
    page.wait("document.getElementById('map').style.touchAction === 'none'")
    assert page.js("visualViewport.scale") == 1
    assert visible(page, "#inspector") == 0
    before = page.js("scrollY")
    page.touch(upwards)
    page.settle()
    assert page.js("scrollY") == before


def test_twenty_thousand_images(page: chromium.Page, report: Path, tmp_path: Path) -> None:
    """The largest map with the most clusters opens, shows every card and finds one picture among all."""
    large = write_page(hostile_report(20_000, 50), tmp_path / "large.html")
    page.open(large)
    assert visible(page, ".card") == 50
    page.type("#search", "-19999")
    page.wait("document.getElementById('found').textContent === '1 picture in 1 cluster'")
    page.open(report)  # what the fixture checks afterwards is this one
    page.requests[:] = [url for url in page.requests if "large.html" not in url]


def test_a_model_without_pictures_or_clusters(page: chromium.Page, report: Path, tmp_path: Path) -> None:
    """A model that keeps no thumbnails, or an empty map, still makes a page that works."""
    bare = dataclasses.replace(
        hostile_report(), thumbnails={}, clusters=(), notes={}, labels=np.full(400, -1, np.int32)
    )
    empty = dataclasses.replace(
        bare, ids=[], x=np.zeros(0), y=np.zeros(0), labels=np.zeros(0, np.int32), images=0
    )
    for name, data in (("bare", bare), ("empty", empty)):
        page.open(write_page(data, tmp_path / f"{name}.html"))
        assert visible(page, ".card") == 0
        page.key("+")
    page.open(report)
    page.requests[:] = [url for url in page.requests if tmp_path.name not in url]
