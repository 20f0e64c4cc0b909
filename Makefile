# `make serve` and `make test` set up all they need in .venv; everything else is for maintainers.
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help serve test lint lock image image-check docs-check monitoring-check check-infra survive fuzz load load-check bench \
	bench-gpu bench-prefix bench-read-ahead bench-transfer audit

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

serve: $(VENV)/installed-cpu ## install if needed, then serve on PORT (8080)
	@EMBED_LOG_FORMAT=$${EMBED_LOG_FORMAT:-text} exec $(BIN)/python -m handler

test: $(VENV)/installed-test ## install if needed, then run every test, the ones against the real engine included
	$(BIN)/python -m pytest

lint: $(VENV)/installed-test ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: ## resolve pyproject.toml anew (needs uv)
	infra/requirements/compile.sh

image: $(VENV)/installed-test ## build the image without a container engine: as it is, changed, with weights (root, Debian)
	$(BIN)/python -m tests.image.build

image-check: image ## build the image, start it, play each platform's contract (root, Debian)
	tests/image/isolated.sh $(BIN)/python -m pytest tests/image

monitoring-check: $(VENV)/installed-test ## every query of the dashboard and the alerts against a live scrape; needs Debian's prometheus
	$(BIN)/python -m pytest tests/monitoring

docs-check: $(VENV)/installed-test ## try the page at /docs in Chromium (which must be installed)
	$(BIN)/python -m pytest tests/browser

check-infra: $(VENV)/installed-test $(VENV)/policy/installed ## validate every deployment file
	$(BIN)/cfn-lint --override-spec infra/lambda/cfn-lint-patch.json template.yaml infra/*/template.yaml
	$(VENV)/policy/bin/checkov --config-file infra/checkov.yaml
	$(BIN)/python -m pytest tests/infra

survive: $(VENV)/installed-test ## break the server: overload, soak, faults; 25 minutes, needs libfaketime; ARGS="--overload 60 --soak 120"
	$(BIN)/python -m tests.survival $(ARGS)

fuzz: $(VENV)/installed-test ## requests by the OpenAPI document, and coverage-guided fuzzing of the parsers; ARGS="--runs 200000"
	$(BIN)/python -m tests.fuzz.api
	$(BIN)/python -m tests.fuzz all $(ARGS)

audit: $(VENV)/installed-test $(VENV)/audit/installed ## compare .venv with its lock and its files with their hashes; look for vulnerabilities
	$(BIN)/python infra/requirements/audit.py $(VENV)/audit/bin/pip-audit $(addprefix infra/requirements/,$(addsuffix .txt,test cpu gpu policy load audit h1c))

bench: $(VENV)/installed-test $(VENV)/infinity/tried ## this server beside vLLM's own and others; 50 minutes, needs wrk
	$(BIN)/python -m tests.bench.side_by_side $(ARGS)

bench-prefix: $(VENV)/installed-test ## what prefix caching saves of a common instruction
	$(BIN)/python -m tests.bench.prefix_caching

bench-read-ahead: $(VENV)/installed-test ## time to ready with weights in no page cache, read ahead and not
	$(BIN)/python -m tests.bench.read_ahead $(ARGS)

bench-transfer: $(VENV)/installed-test ## our ranged reads, boto3's managed transfer and its CRT client from a fast local server
	$(BIN)/python -m tests.bench.s3_transfer

load: $(VENV)/load/installed ## put load on the server at URL with KEY; needs no vLLM on this machine
	@$(VENV)/load/bin/python -m tests.load

load-check: $(VENV)/installed-test $(VENV)/load/installed ## short load tests of a real server here
	LOAD_PYTHON=$(VENV)/load/bin/python $(BIN)/python -m pytest tests/load/check.py

bench-gpu: ## one shape of model on a GPU, 8 minutes a run: SHAPE=bge-base, PYTHON with vLLM and what the server needs
	$${PYTHON:-$(BIN)/python} -m tests.bench.gpu --shape $(or $(SHAPE),bge-base) $(ARGS)

# Infinity pins older packages than vLLM's; the bench says so where they cannot be had.
$(VENV)/infinity/tried:
	$${PYTHON:-python3} -m venv $(VENV)/infinity
	-$(VENV)/infinity/bin/pip install --quiet torch==2.13.0 && \
	    $(VENV)/infinity/bin/pip install --quiet "infinity-emb[torch,server]==0.0.78"
	@touch $@

# Tools with many dependencies of their own: one environment each.
$(VENV)/%/installed: infra/requirements/%.txt
	$${PYTHON:-python3} -m venv $(@D)
	$(@D)/bin/pip install --quiet --no-deps --requirement $<
	@touch $@

$(VENV)/installed-%: infra/requirements/%.txt infra/requirements/install.sh
	@infra/requirements/install.sh $(VENV) $<
	@touch $@
