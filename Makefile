# The same few words for every task: install, test, lint, demo, bench.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS)
# A package index of torch builds, for one without CUDA (docs/install.md): make install TORCH_INDEX=…
TORCH_INDEX ?=
# Tests wait much (for Kafka, for timeouts), so there are more processes than two cores would keep busy; unit
# tests do not, and each process loads torch and umap once more.
# Files go to processes in the order of tests/conftest.py. More threads of torch in each would be in each other's
# way, and a Kafka of some minutes is not worth what Java's second compiler costs. Tests start many processes:
# compiled modules are kept, also where the environment (a container's, for one) says not to.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 JAVA_TOOL_OPTIONS=-XX:TieredStopAtLevel=1 $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install test unit lint site docs demo soak bench fuzz clean

help:      ## show this list
	@grep -hE '^[a-z]+: *.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## create the virtual environment .venv and install everything, pinned

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url "$(TORCH_INDEX)" torch torchvision)
	$(PIP) -e '.[demo,notebook,s3,sql,tune,ray,dev]'
	@touch $@

test: install ## run all tests; those that need Kafka, Redis or a browser are skipped without them
	$(PYTEST) --numprocesses 6 $(ARGS)

unit: install ## run the fast tests only
	$(PYTEST) tests/unit --numprocesses 2 $(ARGS)

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: install ## build the documentation into build/site
	$(BIN)/mkdocs build --quiet

docs: install ## generate what comes from the code: tables, schemas, alerts, dashboards, the Helm chart
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/wings.py
	$(BIN)/python deploy/prometheus/build.py
	$(BIN)/python deploy/grafana/build.py
	PYTHONPATH=. $(BIN)/python deploy/helm/build.py
	$(BIN)/python -m benchmarks.capacity --page docs/capacity.md
	$(BIN)/python -m benchmarks.library_scale --page docs/scale.md

demo: install ## fit a model and stream uploads through the worker on this machine; IMAGES=folder, KAFKA=host:port
	@$(BIN)/imgclust-worker demo $(if $(UPLOADS),--uploads $(UPLOADS)) $(if $(KAFKA),--kafka "$$KAFKA") $(if $(IMAGES),"$$IMAGES")

soak: install ## break everything for half an hour, and check every upload; ARGS="--seed 7"
	$(BIN)/python -m tests.faults --soak $(ARGS)

fuzz: install ## fuzz everything that reads untrusted bytes; SECONDS for each target (600), TARGETS (all)
	$(PIP) -e '.[fuzz]'
	for target in $(or $(TARGETS),event url fetcher answer image); do \
	  $(BIN)/python -m tests.hostile.fuzz $$target -max_total_time=$(or $(SECONDS),600) || exit 1; done

bench: install ## run the benchmarks; prints JSON lines and a table
	$(BIN)/python -m benchmarks $(ARGS)

clean:     ## remove what install, demo and tests left behind
	rm -rf $(VENV) demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
