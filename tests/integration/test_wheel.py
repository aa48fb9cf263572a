"""The wheel holds everything of both packages, and every module can be imported from it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PARTS = ("pyproject.toml", "README.md", "LICENSE")
PACKAGES = ("imgclust", "worker")

# what was imported: module → file; and the kernels, where there are any
IMPORT_ALL = """
import importlib, json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
found = {}
for package in sys.argv[2:]:
    modules = [package, *(m.name for m in pkgutil.walk_packages([f"{sys.argv[1]}/{package}"], f"{package}."))]
    found |= {name: importlib.import_module(name).__file__ for name in modules}
from imgclust.predictor import compiled
library = compiled.library()
print(json.dumps([found, library and library._name]))
"""


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, which was built from the files that are tracked here."""
    folder = tmp_path_factory.mktemp("wheel")
    source, wheels, target = folder / "source", folder / "wheels", folder / "target"
    source.mkdir()
    for name in PARTS:
        shutil.copy(ROOT / name, source / name)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels), ".", cwd=source)
    (wheel,) = wheels.glob("*.whl")
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel), cwd=folder)
    return target


def files(folder: Path, *, code: bool) -> set[str]:
    """Names of the packages' files, without what Python and a compiler write."""
    return {
        str(path.relative_to(folder))
        for package in PACKAGES
        for path in (folder / package).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix != ".so"
        and (path.suffix == ".py") == code
    }


def test_every_file_is_in_the_wheel(installed: Path) -> None:
    """Modules and what lies beside them: pages, schemas, word lists."""
    for code in (True, False):
        wanted = files(ROOT, code=code)
        assert wanted
        assert files(installed, code=code) == wanted


@pytest.fixture(scope="module")
def imported(installed: Path) -> tuple[dict[str, str], str]:
    """What one process that imports all of both packages finds."""
    found, kernels = json.loads(
        run(sys.executable, "-c", IMPORT_ALL, str(installed), *PACKAGES, cwd=installed)
    )
    return found, kernels


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_predictor_is_built_in_c(installed: Path, imported: tuple[dict[str, str], str]) -> None:
    """With a compiler, the wheel holds the compiled kernels, and they can be loaded."""
    assert imported[1].startswith(str(installed / "imgclust" / "predictor" / "_kernels"))


def test_every_module_can_be_imported_from_the_wheel(
    installed: Path, imported: tuple[dict[str, str], str]
) -> None:
    """All of both packages, in one process, and none of them from this checkout."""
    built = {str(path) for path in installed.glob("imgclust/predictor/_kernels*.so")}
    wanted = built | {str(installed / name) for name in files(installed, code=True)}
    assert set(imported[0].values()) == wanted
