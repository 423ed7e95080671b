# Two commands matter: `make demo` and `make test`. Each makes what it needs.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test ui check unit faults docs clean-runs gpu-check

demo: $(STAMP)
	@$(BIN)/stemma demo

test: check unit

ui: $(STAMP)
	@$(BIN)/stemma ui

# The documentation as a site; a link that leads nowhere fails. It asks no other host for anything.
docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "open site/index.html; its search works where a server serves it: $(BIN)/python -m http.server -d site -b 127.0.0.1"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two at a time, by file, for two cores: most tests wait for processes they started. WORKERS=0 is one after another.
unit: $(STAMP)
	$(BIN)/python -m pytest -m "not gpu and not fault" -n $(WORKERS) --dist loadfile

# Real processes, really killed, over the whole chain (docs/faults.md); a Slurm and a PostgreSQL of our own: what
# `make test` leaves out.
faults: $(STAMP)
	$(BIN)/python -m pytest -m "fault and not gpu" -n $(WORKERS) --dist load

# For the first machine with an NVIDIA GPU: what no CPU can prove (tests/gpu). Losses against those of the CPU, every
# precision, attention and Triton kernels against float64, checkpoints between devices, exact resume, exports, memory
# as planned, MFU; with two GPUs every way to share a model. An estimated ten minutes; never run so far. FP8 wants
# `.venv/bin/pip install -e '.[gpu]'` first. Without CUDA it says so and checks nothing.
gpu-check: $(STAMP)
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  $(BIN)/python -m pytest -m gpu -s tests/gpu; \
	else echo "gpu-check: torch sees no CUDA device here, so NOTHING WAS CHECKED (make test covers the CPU)"; fi

# The stamp is touched last, so an interrupted install is done again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "stemma needs Python 3.11 or 3.12; set PYTHON=... (found: $$($(PYTHON) --version 2>&1))"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { echo "Python's venv module is missing (Debian, Ubuntu: the package python3-venv)"; exit 1; }
	@echo "installing into .venv (about two minutes, 3.5 GB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $(STAMP)

clean-runs:
	rm -rf runs
