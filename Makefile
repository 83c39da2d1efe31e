# Shorthand for what a user could type; all else is plain `snakemake` (see README.md).
PYTHON ?= python3
CORES ?= all
BIN := .venv/bin
INSTALLED := .venv/installed
EXTRAS := .venv/extras

.PHONY: install study test drill doctor clean

install: $(INSTALLED)

# the torch pin takes the CPU build where only that is offered, and the CUDA build elsewhere
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0 --editable '.[run,dev]'
	touch $@

# torchao alone in a folder of its own: transformers imports it wherever it is found, which costs every job two seconds
$(EXTRAS): $(INSTALLED)
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt --target $@ torchao
	touch $@

study: $(INSTALLED)
	$(BIN)/snakemake --cores $(CORES) --quiet rules host
	@ls results/studies/tiny/tables/*.md results/studies/tiny/figures/*.pdf
	@cat results/studies/tiny/summary.txt

test: $(INSTALLED) $(EXTRAS)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint
	$(BIN)/pytest

# `snakemake --profile slurm` under every fault, on a SLURM that the test starts; as root, where SLURM's programs are installed
drill: $(INSTALLED)
	$(BIN)/pytest tests/slurm/test_drill.py -m "drill or not drill"

# what an interrupted run left behind, and what to type
doctor: $(INSTALLED)
	@$(BIN)/python workflow/scripts/doctor.py

clean:
	rm -rf results scratch logs .snakemake
