"""A headless Chromium, driven over the DevTools protocol by aiohttp. Collects what a page must not do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.waiting import PATIENCE, wait_for

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


def executable() -> str | None:
    """The browser on this machine, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One tab. `complaints` are its console messages and exceptions, `requests` all that it asked for."""

    def __init__(self, runner: asyncio.Runner, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._runner, self._socket = runner, socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a DevTools command and wait for its reply."""
        return self._runner.run(self._command(method, params))

    async def _command(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE):
            while True:
                message = json.loads(await self._socket.receive_str())
                if message.get("id") == number:
                    assert "error" not in message, f"{method}: {message['error']}"
                    return dict(message["result"])
                self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str | None, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:600])
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(params["args"])[:600])
        elif event == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"][:600])
        elif event == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {params.get('message')}")

    def show(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        """Set the window and the system's theme."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip
        self.command("Emulation.setTouchEmulationEnabled", enabled=phone)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.command("Emulation.setEmulatedMedia", features=[theme, still])

    def open(self, page: Path | str) -> None:
        """Load a page, a file or a URL, and wait until its script says that it is ready."""
        self.command("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        self.wait("document.documentElement?.dataset.ready === 'true'")
        self.settle()

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        answer = self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = PATIENCE) -> None:
        """Wait until an expression is true."""
        wait_for(f"{condition} (the page complains: {self.complaints})", lambda: self.js(condition), seconds)

    def settle(self) -> None:
        """Wait for two frames, so that what was asked for is drawn."""
        self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def type(self, selector: str, text: str) -> None:
        """Put the cursor into an empty field and type."""
        self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        self.command("Input.insertText", text=text)

    def key(self, name: str) -> None:
        text = {"Enter": "\r", "+": "+"}.get(name)
        extra: dict[str, Any] = {"text": text} if text else {}
        if name in ("Enter", "Escape"):  # the browser's own reactions go by this number
            extra["windowsVirtualKeyCode"] = {"Enter": 13, "Escape": 27}[name]
        self.command("Input.dispatchKeyEvent", type="keyDown", key=name, **extra)
        self.command("Input.dispatchKeyEvent", type="keyUp", key=name)

    def click(self, x: float, y: float) -> None:
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.command("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.command("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def touch(self, *fingers: list[tuple[float, float]]) -> None:
        """Put fingers down at the first of their places, move them along, lift them."""
        steps = ["touchStart", *["touchMove"] * (len(fingers[0]) - 1)]
        for kind, places in zip(steps, zip(*fingers, strict=True), strict=True):
            points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
            self.command("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, selector: str) -> None:
        """Click the middle of an element with the mouse, after scrolling to it."""
        at = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.click(*at)

    def text(self, selector: str) -> str:
        return str(self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    def screenshot(self, file: Path) -> None:
        self.settle()
        file.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(binary: str) -> Iterator[Page]:
    """Start a browser with an empty profile; end it, and forget the profile."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, asyncio.Runner() as runner:
        process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = _port(Path(profile) / "DevToolsActivePort", process)
            session, socket = runner.run(_attach(port))
            try:
                yield Page(runner, socket)
            finally:
                runner.run(session.close())
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    def lines() -> list[str]:
        return file.read_text().splitlines() if file.exists() else []

    wait_for("a DevTools port", lambda: process.poll() is not None or len(lines()) == 2)
    if process.poll() is not None:
        raise RuntimeError(f"the browser ended without a DevTools port (exit code {process.returncode})")
    return int(lines()[0])


async def _attach(port: int) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        target = next(t for t in await answer.json() if t["type"] == "page")
    return session, await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
