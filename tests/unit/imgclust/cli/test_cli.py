"""The command line: help at once, one line for an error, and every command end to end on small data."""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import gc
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclust.cli import arguments, embed, loading, report
from imgclust.cli.options import count_range
from imgclust.embedding.store import EmbeddingsWriter, read_embeddings
from imgclust.embedding.torch_encoder import TorchEncoder
from imgclust.errors import EncoderError, ImgclustError
from imgclust.fetching.urls import FetchPolicy
from imgclust.images.decode import DEFAULT_LIMITS
from imgclust.model.model import ClusterModel
from imgclust.model.parts import Group
from imgclust.types import EncoderIdentity

ALONE = "--set=consensus=0"  # one fit is enough where its clusters are not the subject
COMMANDS = (
    "embed",
    "fit",
    "predict",
    "report",
    "explore",
    "clusters",
    "edit",
    "names",
    "search",
    "duplicates",
    "compare",
    "evaluate",
    "export",
    "import",
)


def picture(seed: int, kind: int) -> bytes:
    """Noise in one of a few colours and grains, so that kinds are clusters."""
    rng = np.random.default_rng([seed, kind])
    grain = (2, 6, 16)[kind]
    values = rng.integers(0, 120, (grain, grain, 3)) + np.array([[135, 0, 0], [0, 135, 0], [0, 0, 135]])[kind]
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).resize((48, 48), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for kind in range(3):
        (folder / f"kind{kind}").mkdir()
        for seed in range(4):
            (folder / f"kind{kind}" / f"{seed}.png").write_bytes(picture(seed, kind))
    return folder


@pytest.fixture
def loaded(mini: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> TorchEncoder:
    """The session's encoder in place of loading it for every command."""
    import imgclust.embedding.encoder

    monkeypatch.setattr(imgclust.embedding.encoder, "load_encoder", lambda *_, **__: mini)
    return mini


@pytest.fixture(scope="module")
def model(images: Path, mini: TorchEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three clusters, fitted through the command."""
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    with EmbeddingsWriter(folder / "embeddings", mini.identity) as writer:
        for i in range(120):
            centre = np.zeros(mini.identity.dim, np.float32)
            centre[(i % 3) * 10] = 1.0
            row = centre + rng.normal(0, 0.006, len(centre))
            row = row / np.linalg.norm(row)
            writer.append(id=f"{i}", source="", embedding=row, width=1, height=1, sha256=f"{i:064x}")
    with pytest.MonkeyPatch.context() as patch:
        import imgclust.embedding.encoder

        patch.setattr(imgclust.embedding.encoder, "load_encoder", lambda *_, **__: mini)
        done = arguments.main(
            [
                "fit",
                str(folder / "embeddings"),
                "-o",
                str(folder / "model"),
                "--quiet",
                "--near",
                "1.1",
                ALONE,
            ]
        )
    assert done == 0
    return folder / "model"


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return arguments.parser()


@pytest.mark.parametrize("command", [(), *((c,) for c in COMMANDS)])
def test_help(
    command: tuple[str, ...], parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command explains itself, with examples that its own parser understands."""
    with pytest.raises(SystemExit) as left:
        arguments.main([*command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    examples = re.findall(r"^  (?:find .*\| )?imgclust (.*?)(?: > .*)?$", text, re.MULTILINE)
    assert examples
    for example in examples:
        assert parser.parse_args(shlex.split(example)).command in COMMANDS


def test_starts_at_once() -> None:
    """`--help` and `--version` load nothing that is slow to load."""
    code = (
        "import sys\nfrom imgclust.cli import arguments as cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit: pass\n"
        "slow = {'torch', 'numpy', 'PIL', 'pyarrow', 'umap', 'hdbscan', 'aiohttp', 'rich'}\n"
        "heavy = slow & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself spares Python the last look for garbage; a program that calls it decides that."""
    at_the_end: list[object] = []
    monkeypatch.setattr(atexit, "register", at_the_end.append)
    monkeypatch.setattr(sys, "argv", ["imgclust", "--version"])
    for argv, expected in ((["--version"], []), (None, [gc.freeze])):
        with pytest.raises(SystemExit):
            arguments.main(argv)
        assert at_the_end == expected


def test_runs_as_a_module() -> None:
    """`python -m imgclust` is the command, for machines on which scripts are not on the path."""
    command = [sys.executable, "-m", "imgclust", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("imgclust ")


def test_defaults_agree() -> None:
    """The help names the encoder that the library loads (its module is too slow to import for that)."""
    from imgclust.embedding import encoder

    assert embed.DEFAULT_ENCODER == encoder.DEFAULT


def loaded_by(code: str) -> set[str]:
    """The slow modules that a fresh process loads for some code."""
    code += "\nprint('loaded:', *({'torch', 'umap', 'hdbscan', 'pynndescent', 'numba'} & set(sys.modules)))"
    command = [sys.executable, "-c", f"import sys\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_reading_loads_no_torch() -> None:
    """Only an encoder needs torch: sources, decoding and embeddings folders do without."""
    assert (
        loaded_by(
            "from imgclust.cli import arguments\n"
            "from imgclust.embedding import embed, store\n"
            "from imgclust.images import reader, sources"
        )
        == set()
    )


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """argparse's exit code for them is 2."""
    for argv in ([], ["embed"], ["embed", "x", "-o", "y", "--batch", "0"], ["fly"]):
        with pytest.raises(SystemExit) as left:
            arguments.main(argv)
        assert left.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong is one line on stderr and exit code 1; a traceback only on request."""
    monkeypatch.delenv(arguments.DEBUG, raising=False)
    argv = ["fit", str(tmp_path / "none"), "-o", str(tmp_path / "model")]
    assert arguments.main(argv) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"imgclust: there are no embeddings in .*\n", printed.err)
    monkeypatch.setenv(arguments.DEBUG, "1")
    with pytest.raises(ImgclustError):
        arguments.main(argv)


def test_unexpected_errors_are_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug, too, says what it is and how to see more; Ctrl-C is 130."""

    def failing(error: BaseException) -> object:
        def run(_: object) -> int:
            raise error

        return run

    monkeypatch.delenv(arguments.DEBUG, raising=False)
    monkeypatch.setattr(report, "run", failing(RuntimeError("a\nb")))
    assert arguments.main(["report", "m", "-o", "r"]) == 1
    assert capsys.readouterr().err == f"imgclust: RuntimeError: a b (set {arguments.DEBUG}=1 to see where)\n"
    monkeypatch.setattr(report, "run", failing(KeyboardInterrupt()))
    assert arguments.main(["report", "m", "-o", "r"]) == 130


def test_embed(
    images: Path, tmp_path: Path, loaded: TorchEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    """`embed` says what it did, and what it skipped; run again, it has nothing to do."""
    argv = ["embed", str(images), "-o", str(tmp_path / "e"), "--encoder", "mini", "--quiet"]
    assert arguments.main(argv) == 0
    assert re.match(r"embedded 12 images in .* images/s\)", capsys.readouterr().out)
    assert len(read_embeddings(tmp_path / "e")) == 12
    assert arguments.main(argv) == 0
    assert "12 were there before" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert arguments.main(["embed", str(tmp_path / "empty"), "-o", str(tmp_path / "f"), "--quiet"]) == 1


def test_private_networks_have_to_be_named(images: Path, tmp_path: Path, loaded: TorchEncoder) -> None:
    """A list with URLs of this machine is refused, unless its network and port are allowed."""
    import http.server
    import threading
    from functools import partial

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(images))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = str(server.server_port)
        (tmp_path / "list.csv").write_text(f"url,id\nhttp://127.0.0.1:{port}/kind0/0.png,a\n")
        argv = ["embed", str(tmp_path / "list.csv"), "-o", str(tmp_path / "e"), "--quiet"]
        assert arguments.main(argv) == 1
        assert arguments.main([*argv, "--allow-network", "127.0.0.0/33"]) == 1
        assert arguments.main([*argv, "--allow-network", "127.0.0.0/8", "--allow-port", port]) == 0
        server.shutdown()
        thread.join()
    assert read_embeddings(tmp_path / "e").ids == ["a"]


def test_fit_prints_what_it_used(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parameters, the clusters, what a wanted number of them cost, the figures, and that no picture could
    be read."""
    again = model.parent / "again"
    argv = ["fit", str(model.parent / "embeddings"), "-o", str(again), "--no-names", "--near", "1.1", ALONE]
    assert arguments.main([*argv, "--min-cluster-size", "8", "--clusters", "1..2"]) == 0
    printed = capsys.readouterr()
    assert "min_cluster_size = 8" in printed.out
    assert "2 clusters" in printed.out
    assert re.search(
        r"1 to 2 clusters requested; compared with the default choice of 3, \d+% of", printed.out
    )
    assert re.search(r'"other" \d.\d% → [23]\d.\d%, mean stability', printed.out)
    assert "umap" in printed.err
    assert "48 of 48 typical pictures, which cannot be read" in printed.err


def test_counts_are_numbers_or_two() -> None:
    """`--clusters` takes 12 or 10..30, and nothing else."""
    assert (count_range("12"), count_range("10..30")) == ((12, 12), (10, 30))
    for wrong in ("", "10..", "..30", "10-30", "ten", "0", "0..5", "1.5", "10...30"):
        with pytest.raises(argparse.ArgumentTypeError):
            count_range(wrong)


def test_unsteady_clusters_are_marked(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`clusters` lists how steady each cluster is, which are not, and the groups; JSON has the numbers."""
    found = ClusterModel.load(model)
    stabilities = [0.95, 0.52, None]
    clusters = tuple(
        dataclasses.replace(cluster, stability=value, group=4 if value else None)
        for cluster, value in zip(found.clusters, stabilities, strict=True)
    )
    group = Group(4, "animals", 60)
    dataclasses.replace(found, clusters=clusters, groups=(group,), known_version=None).save(tmp_path / "m")
    assert arguments.main(["clusters", str(tmp_path / "m")]) == 0
    listed, groups = capsys.readouterr().out.split("groups:\n")
    lines = {int(line.split()[0]): line for line in listed.splitlines()[1:]}
    assert "stability 0.95" in lines[clusters[0].id]
    assert "low" not in lines[clusters[0].id]
    assert "stability 0.52 (low)" in lines[clusters[1].id]
    assert "stability" not in lines[clusters[2].id]
    assert arguments.main(["clusters", str(tmp_path / "m"), "--json"]) == 0
    records = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [record["stability"] for record in records] == stabilities
    assert [record["group"] for record in records] == [4, 4, None]
    members = sorted(clusters[:2], key=lambda c: (-c.size, c.id))
    size, names = sum(c.size for c in members), ", ".join(str(c.id) for c in members)
    assert groups == f"     4  {size:6d} images  animals: {names}\n"


def test_predict(
    model: Path, images: Path, tmp_path: Path, loaded: TorchEncoder, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Into a pipe: a JSON line per picture; into a file by its ending; broken pictures told on stderr."""
    source = images / "kind0"
    assert arguments.main(["predict", str(model), str(source)]) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == [f"{i}.png" for i in range(4)]
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    out = tmp_path / "tags.csv"
    argv = ["predict", str(model), str(source / "0.png"), str(tmp_path / "bad.png"), "-o", str(out)]
    assert arguments.main(argv) == 0
    assert len(out.read_text().splitlines()) == 2
    assert b"decode-failed" in capfdbinary.readouterr().err
    assert arguments.main(["predict", str(model), str(source), "-o", str(tmp_path / "tags.xls")]) == 1


def test_predict_embeddings(model: Path, tmp_path: Path) -> None:
    """An embeddings folder is predicted as it is: no encoder is loaded, and clusters come out."""
    out = tmp_path / "tags.jsonl"
    assert arguments.main(["predict", str(model), str(model.parent / "embeddings"), "-o", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 120
    assert len({row["cluster"] for row in rows} - {-1}) == 3


def test_predict_lines(
    model: Path, images: Path, loaded: TorchEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`-` reads paths from stdin, as `find` writes them."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{images}/kind1/0.png\n\n{images}/kind1/1.png\n"))
    out = tmp_path / "tags.jsonl"
    assert arguments.main(["predict", str(model), "-", "-o", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 2


@pytest.mark.parametrize(("option", "is_link"), [("--copy-to", False), ("--link-to", True)])
def test_predict_sorts(
    model: Path, images: Path, loaded: TorchEncoder, tmp_path: Path, option: str, is_link: bool
) -> None:
    """Pictures are sorted into folders; into the folder that is being read they are not."""
    argv = ["predict", str(model), str(images / "kind2"), "-o", str(tmp_path / "t.csv"), option]
    assert arguments.main([*argv, str(tmp_path / "sorted")]) == 0
    found = [p for p in (tmp_path / "sorted").glob("*/*") if p.is_file()]
    assert len(found) == 4
    assert all(p.is_symlink() == is_link for p in found)
    assert arguments.main([*argv, str(images / "kind2" / "sorted")]) == 1


def test_what_is_not_placed_is_counted(
    model: Path, loaded: TorchEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows without a file here are no silent loss."""
    argv = ["predict", str(model), str(model.parent / "embeddings"), "-o", str(tmp_path / "t.csv")]
    assert arguments.main([*argv, "--link-to", str(tmp_path / "sorted")]) == 0
    assert "0 pictures placed" in (said := capsys.readouterr().err)
    assert "120 not placed, because they are not readable files here" in said


def test_limits_can_be_set(
    model: Path,
    images: Path,
    loaded: TorchEncoder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`embed` and `predict` take larger and smaller pictures than by default, and name the option."""
    picture = images / "kind0" / "0.png"
    for argv in (
        ["embed", str(picture), "-o", str(tmp_path / "e"), "--quiet"],
        ["predict", str(model), str(picture)],
    ):
        for limit, code in (("--max-pixels", "too-many-pixels"), ("--max-bytes", "too-large")):
            assert arguments.main([*argv, limit, "20"]) == 1
            streams = capsys.readouterr()
            assert f"1 failed: {code}" in streams.out + streams.err
            assert f"{limit} reads larger ones" in streams.out + streams.err
        assert arguments.main([*argv, "--max-pixels", "1000000000", "--max-bytes", "1000000000"]) == 0
    with pytest.raises(SystemExit):
        arguments.main(["embed", "--help"])
    shown = capsys.readouterr().out
    for default in (DEFAULT_LIMITS.max_pixels, DEFAULT_LIMITS.max_bytes, FetchPolicy().max_bytes):
        assert f"({default})" in shown
    parsed = arguments.parser().parse_args(["predict", "m", "i", "--max-bytes", "7"])
    assert loading.reader(parsed)._policy.max_bytes == 7  # type: ignore[union-attr]


def test_lines_that_are_not_utf8(
    model: Path, images: Path, loaded: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`find` writes the bytes of names; one that is no text stops nobody, and the picture is predicted."""
    odd = os.path.join(os.fsencode(tmp_path), b"M\xe4rz.png")
    Path(os.fsdecode(odd)).write_bytes((images / "kind1" / "0.png").read_bytes())
    lines = io.BytesIO(os.fsencode(images / "kind1" / "1.png") + b"\n" + odd + b"\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines, encoding="utf-8"))
    out = tmp_path / "tags.jsonl"
    assert arguments.main(["predict", str(model), "-", "-o", str(out)]) == 0
    assert [Path(json.loads(line)["id"]).name for line in out.read_text().splitlines()] == [
        "1.png", "M\\udce4rz.png",
    ]  # fmt: skip


def test_report(model: Path, tmp_path: Path) -> None:
    """`report` writes the page."""
    assert arguments.main(["report", str(model), "-o", str(tmp_path / "r.html"), "--title", "Mine"]) == 0
    assert "<title>Mine" in (tmp_path / "r.html").read_text("utf-8")


def test_names(model: Path, tmp_path: Path, loaded: TorchEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    """`names` names again; words of one's own need an encoder with a text tower."""
    from imgclust.model.model import ClusterModel

    assert arguments.main(["names", str(model), "-o", str(tmp_path / "named")]) == 0
    assert ClusterModel.load(tmp_path / "named").taxonomy == ClusterModel.load(model).taxonomy
    (tmp_path / "words.txt").write_text("# mine\nfood\n\nfood\n")
    assert loading.words(tmp_path / "words.txt") == ["food"]
    assert arguments.main(["names", str(model), "--vocabulary", str(tmp_path / "words.txt")]) == 1
    assert "cannot read text" in capsys.readouterr().err
    (tmp_path / "words.txt").write_text("\n")
    assert arguments.main(["names", str(model), "--vocabulary", str(tmp_path / "words.txt")]) == 1
    assert "no words" in capsys.readouterr().err


def test_another_encoder_is_refused(
    model: Path, loaded: TorchEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder with other weights than the model's is refused, with both named."""
    import dataclasses

    wanted = dataclasses.replace(loaded.identity, weights="ff" * 32)
    with pytest.raises(EncoderError, match=r"what loaded is .*, wanted is .*ffff"):
        loading.encoder(wanted)


# `embed` with an encoder that needs no torch, takes its time, and says when it is in the middle of the work.
IN_THE_MIDDLE = """
import sys, time, types
import numpy as np
from imgclust.cli import arguments as cli
from imgclust.types import EncoderIdentity, Preprocessing

class Encoder:
    identity = EncoderIdentity("test", "test", "0" * 64, Preprocessing(8, 8), "float32", 2)
    batches = 0
    def encode(self, pixels):
        self.batches += 1
        if self.batches == 3:
            print("now", flush=True)
        time.sleep(0.02)
        return np.ones((len(pixels), 2), np.float32)

sys.modules["imgclust.embedding.encoder"] = types.SimpleNamespace(load_encoder=lambda *_, **__: Encoder())
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_keep_what_is_done(number: int, code: int, images: Path, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM in the middle of `embed` write the rows that are complete, and leave quietly."""
    many = tmp_path / "many"
    many.mkdir()
    for i in range(600):
        (many / f"{i}.png").symlink_to(images / "kind0" / "0.png")
    command = [
        sys.executable,
        "-c",
        IN_THE_MIDDLE,
        "embed",
        str(many),
        "-o",
        str(tmp_path / "e"),
        "--batch",
        "2",
    ]
    # a shell's background jobs ignore SIGINT, and so would their children
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"now\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in stderr
    assert 4 <= len(read_embeddings(tmp_path / "e")) < 600


def test_duplicates_are_listed(
    mini: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fit --duplicates FILE.csv` names each image that was left out and the one that it joined."""
    rng = np.random.default_rng(1)
    with EmbeddingsWriter(tmp_path / "embeddings", mini.identity) as writer:
        for i in range(90):
            centre = np.zeros(mini.identity.dim, np.float32)
            centre[(i % 3) * 10] = 1.0
            row = centre + rng.normal(0, 0.02, len(centre))
            row /= np.linalg.norm(row)
            for name, digest in ((f"{i}", i), *([(f"copy of {i}", i)] if i < 2 else [])):
                writer.append(id=name, source="", embedding=row, width=1, height=1, sha256=f"{digest:064x}")
    import imgclust.embedding.encoder

    monkeypatch.setattr(imgclust.embedding.encoder, "load_encoder", lambda *_, **__: mini)
    listed = tmp_path / "duplicates.csv"
    argv = [
        "fit",
        str(tmp_path / "embeddings"),
        "-o",
        str(tmp_path / "model"),
        "--quiet",
        "--no-names",
        ALONE,
    ]
    assert arguments.main([*argv, "--duplicates", str(listed)]) == 0, capsys.readouterr().err
    lines = listed.read_text().splitlines()
    assert lines == ["duplicate,kept,cosine,exact", "copy of 0,0,1.0000,1", "copy of 1,1,1.0000,1"]


def test_fit_continues_a_taxonomy(
    model: Path, tmp_path: Path, mini: TorchEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fit --previous` prints what became of each cluster; other pictures of two of three kinds, and of a new
    one. A folder that is no model, or another encoder's, is one line on stderr."""
    rng = np.random.default_rng(1)

    def embeddings(folder: Path, identity: EncoderIdentity) -> Path:
        with EmbeddingsWriter(folder, identity) as writer:
            for i in range(120):
                row = np.zeros(identity.dim, np.float32)
                row[(i % 3 + 1) * 10] = 1.0
                row += rng.normal(0, 0.006, len(row)).astype(np.float32)
                row /= np.linalg.norm(row)
                writer.append(id=f"{i}", source="", embedding=row, width=1, height=1, sha256=f"{i:064x}")
        return folder

    folder, out = embeddings(tmp_path / "embeddings", mini.identity), tmp_path / "next"
    argv = ["fit", str(folder), "-o", str(out), "--quiet", "--near", "1.1", "--no-names", "--no-thumbnails"]
    assert arguments.main([*argv, "--previous", str(model), ALONE]) == 0
    first, second = ClusterModel.load(model), ClusterModel.load(out)
    printed = capsys.readouterr().out
    assert (
        f"taxonomy {first.taxonomy}, continued from model {first.version}: 2 clusters kept, 1 new, 1 retired"
        in printed
    )
    assert re.search(
        r"^  kept\n( +\d .* % +\d+ → \d+.*\n){2}  new\n +3 .*\n  retired\n +\d .*\n", printed, re.M
    )
    assert "taxonomy:" not in printed  # the figures do not say it again
    assert second.taxonomy == first.taxonomy
    tags = tmp_path / "tags.jsonl"
    assert arguments.main(["predict", str(out), str(folder), "-o", str(tags)]) == 0
    rows = [json.loads(line) for line in tags.read_text().splitlines()]
    assert {row["cluster"] for row in rows} - {-1} == set(second.numbers.tolist())
    assert {row["taxonomy"] for row in rows} == {first.taxonomy}
    assert arguments.main(["report", str(out), "-o", str(tmp_path / "r.html"), "--tags", str(tags)]) == 0
    capsys.readouterr()
    assert arguments.main([*argv, "--previous", str(tmp_path)]) == 1
    assert re.fullmatch(r"imgclust: .* is not a model folder: .*\n", capsys.readouterr().err)
    other = dataclasses.replace(mini.identity, name="another", weights="1" * 64)
    argv[1] = str(embeddings(tmp_path / "others", other))
    assert arguments.main([*argv, "--previous", str(model), ALONE]) == 1
    assert re.fullmatch(r"imgclust: .* from another .*fitted on mini .*\n", capsys.readouterr().err)
