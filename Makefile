# Shorthand for what a user could type; all else is plain `snakemake` (see README.md).
PYTHON ?= python3
CORES ?= all
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: install study test clean

install: $(INSTALLED)

# the torch pin takes the CPU build where only that is offered, and the CUDA build elsewhere
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0 --editable '.[run,dev]'
	touch $@

study: $(INSTALLED)
	$(BIN)/snakemake --cores $(CORES) --quiet rules host
	@ls results/studies/tiny/tables/*.md results/studies/tiny/figures/*.pdf
	@cat results/studies/tiny/summary.txt

test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint
	$(BIN)/pytest

clean:
	rm -rf results scratch logs .snakemake
