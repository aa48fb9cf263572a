"""The wall as people see it: the command as a process, a real Redis, a real browser, hostile uploads."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support import chromium, redis_server
from tests.support.origin import Origin, response
from tests.support.report_sample import ATTACKS, webp
from worker.messages.tag import Candidate, Tag
from worker.view.records import read_record
from worker.view.store import TagsView

BINARY = chromium.executable()
pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(BINARY is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)"),
]

DESKTOP, PHONE = (1280, 900), (390, 844)
TAXONOMY = "0123456789ab"
MANY = 130  # uploads of cluster 2: more than one page


@dataclasses.dataclass
class Stage:
    """A wall over a Redis that a test writes tags into, as the view would."""

    url: str
    view: TagsView
    pictures: Origin
    elsewhere: Origin
    offset: int = 0

    def put(self, upload_id: str, cluster: int, name: str | None, url: str | None = "", at: int = 0) -> None:
        url = self.pictures.url(f"/{cluster % 3}.webp") if url == "" else url
        at = at or int(time.time() * 1000)
        candidates = (Candidate(max(cluster, 0), name, 0.75), Candidate(9, ATTACKS[3], 0.125))
        tag = Tag(
            upload_id, cluster, name, 0.625, candidates, cluster == 1, "m-1", TAXONOMY, url, at, at + 40,
            {ATTACKS[0]: ATTACKS[1]},
        )  # fmt: skip
        record = read_record(upload_id.encode(), tag.to_json(), 0, self.offset, at)
        self.view.apply([record], {})
        self.offset += 1


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """`imgclust-worker wall` over clusters whose names, ids and URLs are made to break out of the page."""
    colours = {0: (200, 90, 60), 1: (60, 140, 90), 2: (70, 90, 200)}
    with (
        redis_server.running() as server,
        Origin().running() as elsewhere,
        Origin(
            {
                **{f"/{n}.webp": response(webp(colour)) for n, colour in colours.items()},
                "/away": response(b"", "302 Found", f"Location: {elsewhere.url('/admin/delete')}"),
            }
        ).running() as pictures,
    ):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WORKER_")},
            "WORKER_REDIS_URL": server.url,
            "WORKER_WALL": "127.0.0.1:0",
            "WORKER_WALL_IMAGES": f"http://127.0.0.1:{pictures.port}",
            "WORKER_FETCH_ALLOW_NETWORKS": "127.0.0.0/8",
            "WORKER_FETCH_ALLOW_PORTS": f"{pictures.port} {elsewhere.port}",
            "WORKER_LOG": "json",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "wall"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["address"]
            stage = Stage(url, TagsView(server.client()), pictures, elsewhere)
            past = int(time.time() * 1000) - 3_600_000
            for n, attack in enumerate(ATTACKS):
                stage.put(f"{attack} {n}", 0, ATTACKS[1], at=past + n)
                stage.put(f"url {n}", 1, ATTACKS[0], url=attack, at=past + n)
            for n in range(MANY):
                stage.put(f"many-{n:03}", 2, None, at=past + n)
            stage.put("left out", -1, None, url=None, at=past)
            stage.put("not a source", -1, None, url=elsewhere.url("/x.png"), at=past)
            stage.put("redirected", -1, None, url=pictures.url("/away"), at=past)
            yield stage
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert "Traceback" not in process.stdout.read()
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def session() -> Iterator[chromium.Page]:
    assert BINARY
    with chromium.browser(BINARY) as page:
        yield page


@pytest.fixture
def page(session: chromium.Page, stage: Stage) -> Iterator[chromium.Page]:
    """The wall, just opened. Afterwards: nothing ran that came from an upload, nobody else was asked."""
    session.complaints.clear()
    session.requests.clear()
    session.show(*DESKTOP)
    session.command("Page.navigate", url="about:blank")
    session.open(stage.url)
    yield session
    session.settle()
    assert session.js("window.pwned") is None
    refused = [text for text in session.complaints if "violates the following Content Security" not in text]
    assert [text for text in refused if "status of 404" not in text] == []
    assert stage.elsewhere.requests == []
    own = (stage.url, stage.pictures.url("/"), stage.elsewhere.url("/admin"), "about:blank")
    assert [url for url in session.requests if not url.startswith(own)] == []


def texts(page: chromium.Page, selector: str) -> list[str]:
    found = page.js(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")
    return [str(text) for text in found]


def test_hostile_uploads_are_text_and_pictures_come_from_sources_alone(
    page: chromium.Page, stage: Stage
) -> None:
    """Names, ids and URLs that break out of careless pages are shown letter by letter; a picture is loaded
    only from where the setting says, without a referrer, and a redirect to elsewhere is not followed."""
    names = texts(page, ".card h3 bdi")
    assert sorted(names) == sorted([ATTACKS[1], ATTACKS[0], "Cluster 2", "Other"])
    page.wait("document.querySelectorAll('.tile img.there').length >= 12")
    labels = page.js("[...document.querySelectorAll('.card .tile')].map(e => e.dataset.id)")
    assert {f"{attack} {n}" for n, attack in enumerate(ATTACKS)} <= set(labels)
    assert page.js("document.querySelectorAll('script').length") == 1
    assert page.js("document.querySelectorAll('svg, iframe, [onerror], [onload], [style*=url]').length") == 0
    prefix = json.dumps(stage.pictures.url("/"))
    assert page.js(f"[...document.images].every(i => i.src.startsWith({prefix}))")
    page.wait("document.querySelectorAll('.card:last-child .no-picture').length === 3")
    assert "/away" in stage.pictures.counts
    assert stage.pictures.requests
    assert all("referer" not in request.headers for request in stage.pictures.requests)


def test_a_new_upload_appears_by_itself(page: chromium.Page, stage: Stage) -> None:
    """Within seconds of its tag, without a reload: in the river, on its cluster's card, in the figures."""
    before = int(page.text("#tiles dd").replace(",", ""))
    stage.put("just in", 5, "fresh fruit")
    page.wait("document.querySelector('.river .drop .tile')?.dataset.id === 'just in'", 15)
    page.wait("[...document.querySelectorAll('.card')].some(c => c.textContent.startsWith('fresh fruit#5'))")
    assert int(page.text("#tiles dd").replace(",", "")) == before + 1
    assert page.text("#state") in ("Live", "LIVE")
    stage.put("just in", 1, ATTACKS[0])  # its new tag is in another cluster
    page.wait("document.querySelector('.river .drop .drop-name').textContent !== 'fresh fruit'", 15)


def test_search_shows_what_a_tag_says_and_why(page: chromium.Page, stage: Stage) -> None:
    """An id, typed: the picture, cluster, probability, candidates, novelty, model and attributes, as text;
    an id that is not there: a sentence that says what that means. Escape leads back."""
    page.type("#search", f"{ATTACKS[0]} 0")
    page.key("Enter")
    page.wait("document.getElementById('tag').open && document.querySelector('#tag .facts') !== null")
    said = page.text("#tag")
    for part in (ATTACKS[0], ATTACKS[1], "63 %", "75 %", "13 %", ATTACKS[3], "m-1", TAXONOMY,
                 stage.pictures.url("/0.webp"), "0.04 s later"):  # fmt: skip
        assert part in said
    page.key("Escape")
    page.wait("!document.getElementById('tag').open && location.hash === ''")
    page.js("location.hash = 'tag=url%207'")
    page.wait("document.querySelector('#tag h2')?.textContent === 'url 7'")
    said = page.text("#tag")
    assert "unlike anything that the model was trained on" in said
    assert ATTACKS[7] in page.js("document.querySelector('#tag .facts').textContent")
    assert page.js("document.querySelectorAll('#tag a').length") == 1  # to the cluster; the URL is no link
    page.js("location.hash = 'tag=nobody'")
    page.wait("document.querySelector('#tag h2')?.textContent === 'nobody'")
    assert "not tagged yet, deleted, a dead letter" in page.text("#tag")


def test_a_cluster_is_shown_to_its_end(page: chromium.Page) -> None:
    """A press on a card's name: all 130 pictures, newest first, page after page as one scrolls; and back."""
    page.press(".card[data-cluster='2'] .card-link")
    page.wait("!document.getElementById('one').hidden")
    page.js("window.scroller = setInterval(() => scrollTo(0, document.body.scrollHeight), 50)")
    page.wait(f"document.querySelectorAll('#pictures .tile').length === {MANY}")
    page.js("clearInterval(window.scroller)")
    ids = page.js("[...document.querySelectorAll('#pictures .tile')].map(e => e.dataset.id)")
    assert ids == [f"many-{n:03}" for n in reversed(range(MANY))]
    assert page.text("#one-end") == "Redis keeps no older uploads of this cluster."
    page.press("#one .one-head a")
    page.wait("document.getElementById('one').hidden && !document.getElementById('all').hidden")


def test_the_keyboard_is_enough(page: chromium.Page) -> None:
    """To the search with "/", and every control can be reached and has a name."""
    page.key("/")
    assert page.js("document.activeElement.id") == "search"
    nameless = page.js(
        "[...document.querySelectorAll('button, a, select, input')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.textContent || e.labels?.[0]?.textContent).trim())"
        ".length"
    )
    assert nameless == 0


def test_light_and_dark(page: chromium.Page, stage: Stage) -> None:
    """The page follows the system's theme, and the button goes against it."""

    def brightness() -> int:
        return int(
            page.js("Number(getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0])")
        )

    assert brightness() > 200
    page.show(*DESKTOP, dark=True)
    assert brightness() < 60
    page.press("#theme")  # light
    assert brightness() > 200
    page.press("#theme")  # dark
    assert brightness() < 60
    page.press("#theme")  # as the system has it, for whoever comes next
    assert page.js("localStorage.getItem('theme')") == "auto"


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_it_without_scrolling_sideways(page: chromium.Page, width: int) -> None:
    """Nothing is wider than the screen of a phone: the clusters, one cluster, an upload's sheet."""
    page.show(width, PHONE[1], phone=True)

    def fits() -> bool:
        return bool(page.js(f"document.documentElement.scrollWidth <= {width} && innerWidth <= {width}"))

    assert fits()
    page.js("location.hash = 'cluster=0'")
    page.wait("document.querySelectorAll('#pictures .tile').length === 8")
    assert fits()
    page.press("#pictures .tile")
    page.wait("document.getElementById('tag').open && document.querySelector('#tag .facts') !== null")
    assert fits()
    assert page.js("document.getElementById('tag').scrollWidth") <= width
    page.press("#tag .close")
    page.wait("!document.getElementById('tag').open")
    page.wait("location.hash === '#cluster=0'")  # going back takes the browser a moment
