"""Every parameter of the fit from the command line, and a file of them in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imgclust.cli.arguments import parser
from imgclust.cli.fit_parameters import chosen, save
from imgclust.errors import ImgclustError
from imgclust.training.parameters import Parameters


def of(*arguments: str) -> dict[str, Any]:
    return chosen(parser().parse_args(["fit", "embeddings/", "-o", "model/", *arguments]))


def test_every_parameter_can_be_set() -> None:
    """`--set` knows each by its name, and gives it its own kind."""
    parameters = Parameters.for_size(1000)
    settings = [f"--set={name}={value}" for name, value in parameters.to_dict().items()]
    assert Parameters(**of(*settings)) == parameters
    assert of("--set", "min_dist=0", "--set", " n_epochs = 500 ") == {"min_dist": 0.0, "n_epochs": 500}


def test_a_file_in_and_out(tmp_path: Path) -> None:
    """What was written is read as it was; `--set` and options win over it."""
    file, parameters = (
        tmp_path / "parameters.toml",
        Parameters.for_size(1000).replaced({"metric": "euclidean"}),
    )
    save(parameters, file)
    assert Parameters(**of("--parameters", str(file))) == parameters
    assert of("--parameters", str(file), "--set", "min_dist=0.5")["min_dist"] == 0.5
    assert of("--set", "min_samples=3", "--min-samples", "9") == {"min_samples": 9}
    assert of("--parameters", str(file), "--consensus", "0")["consensus"] == 0


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("min_dist", "takes NAME=VALUE"),
        ("minimum=3", "no parameter 'minimum'; there are cluster_selection_method"),
        ("n_epochs=many", "n_epochs is a whole number, got 'many'"),
        ("n_epochs=1.5", "n_epochs is a whole number"),
        ("min_dist=", "min_dist is a number"),
    ],
)
def test_what_cannot_be_set(setting: str, text: str) -> None:
    with pytest.raises(ImgclustError, match=text):
        of("--set", setting)


@pytest.mark.parametrize("content", ["min_dist: 0", "n_epochs = true", "n_epochs = 2.5", "x = 1"])
def test_files_that_cannot_be_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "parameters.toml").write_text(content)
    with pytest.raises(ImgclustError, match=r"cannot be read|is a whole number|no parameter"):
        of("--parameters", str(tmp_path / "parameters.toml"))
    with pytest.raises(ImgclustError, match="cannot be read"):
        of("--parameters", str(tmp_path / "missing.toml"))
