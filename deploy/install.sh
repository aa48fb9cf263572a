#!/bin/sh
# Installs imgclust and its locked dependencies into a virtual environment. Needs Python 3.11 or later with venv,
# no compiler, and no rights beyond writing to VENV and a temporary folder.
#
#   TORCH_INDEX=… deploy/install.sh VENV [dependencies] [imgclust] [sbom]
#
# Without a step, the first two are taken. They are apart because the dependencies are gigabytes that seldom
# change, and imgclust is a megabyte that often does: an image keeps each in a layer of its own. `sbom` lists
# what is installed in VENV/sbom.cdx.json (CycloneDX).
#
#   TORCH_INDEX   package index that torch is taken from; it decides which build that is. There is no default,
#                 because the wrong one costs gigabytes, or the GPU. A VENV that has the locked torch keeps it.
#   TORCH_BUILD   cpu or cuda: what must have come of it; anything else fails here and not in production
#   EXTRAS        optional extras of imgclust, separated by commas: heif, schema-registry, demo, …
#   WHEELS        folder with imgclust's wheel, made where a compiler is; without it the wheel is made here, and
#                 where there is no compiler the predictor runs in numpy: the same answers, more slowly
#   PYTHON        that makes VENV, default python3
#
# Everything else comes from the index that pip is configured for (PIP_INDEX_URL, pip.conf).
set -eu

fail() { echo "install.sh: $1" >&2; exit 2; }

[ "$#" -ge 1 ] || fail "name the virtual environment: TORCH_INDEX=… deploy/install.sh VENV [dependencies] [imgclust]"
venv=$1; shift
[ "$#" -gt 0 ] || set -- dependencies imgclust
source=$(cd "$(dirname "$0")/.." && pwd)
constraints=$source/constraints.txt

for step in "$@"; do
  case $step in
    dependencies) : "${TORCH_INDEX:?install.sh: name the package index that torch is taken from (a CPU or a CUDA build)}" ;;
    imgclust|sbom) ;;
    *) fail "unknown step '$step': dependencies, imgclust or sbom" ;;
  esac
done
case ${TORCH_BUILD:-} in ''|cpu|cuda) ;; *) fail "TORCH_BUILD must be cpu or cuda, got '$TORCH_BUILD'" ;; esac

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input "$@"; }

dependencies() {
  # without its dependencies: an index of torch builds has those in versions that are not the locked ones
  pip install --only-binary :all: --no-deps -c "$constraints" --index-url "$TORCH_INDEX" torch torchvision
  wanted=$(mktemp)
  "$venv/bin/python" - "$source/pyproject.toml" "${EXTRAS:-}" >"$wanted" <<'PYTHON'
import sys, tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extras = [name.strip() for name in sys.argv[2].split(",") if name.strip()]
unknown = sorted(set(extras) - set(project["optional-dependencies"]))
if unknown:
    known = ", ".join(sorted(project["optional-dependencies"]))
    sys.exit(f"install.sh: EXTRAS names {', '.join(unknown)}; imgclust has {known}")
print(*project["dependencies"], *(r for name in extras for r in project["optional-dependencies"][name]), sep="\n")
PYTHON
  pip install --only-binary :all: -c "$constraints" -r "$wanted"
  rm -f "$wanted"
  "$venv/bin/python" - "${TORCH_BUILD:-}" <<'PYTHON'
import sys, torch

build = "cuda" if torch.version.cuda else "cpu"
if sys.argv[1] not in ("", build):
    sys.exit(f"install.sh: TORCH_BUILD is {sys.argv[1]}, but TORCH_INDEX gave torch {torch.__version__} ({build})")
print(f"torch {torch.__version__} ({build})")
PYTHON
}

imgclust() {
  if [ -n "${WHEELS:-}" ]; then
    pip install --no-deps --force-reinstall "$WHEELS"/imgclust-*.whl
    "$venv/bin/imgclust-worker" --version
    return
  fi
  # built in a copy: a build writes into its source, which may be read-only
  work=$(mktemp -d)
  for part in pyproject.toml README.md LICENSE imgclust worker; do cp -R "$source/$part" "$work/"; done
  PIP_CONSTRAINT=$constraints PIP_BUILD_CONSTRAINT=$constraints \
    pip wheel --no-deps --wheel-dir "$work/dist" "$work"
  pip install --no-deps --force-reinstall "$work"/dist/imgclust-*.whl
  rm -rf "$work"
  "$venv/bin/imgclust-worker" --version
}

sbom() {
  # with a tool in an environment of its own, which is not part of what it lists
  tools=$(mktemp -d)
  "${PYTHON:-python3}" -m venv --without-pip "$tools"
  pip --python "$tools/bin/python" install --only-binary :all: -c "$constraints" cyclonedx-bom
  "$tools/bin/cyclonedx-py" environment --of JSON --output-reproducible -o "$venv/sbom.cdx.json" "$venv/bin/python"
  rm -rf "$tools"
}

for step in "$@"; do "$step"; done
pip check
