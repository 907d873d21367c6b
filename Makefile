# `make repro` and `make test` each are complete on their own in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,serve
ifeq ($(shell uname -sm),Linux x86_64)
EXTRAS := dev,serve,rtx
endif
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro zoo paper imagenet test slow results zoo-results paper-results kit serve triton bench

repro: $(VENV)/installed
	python -m pipeline.check
	dvc repro

# Convolutions, and what is read or written in sequence.
zoo paper: %: $(VENV)/installed %/dvc.yaml %/sequences/dvc.yaml
	cd $@ && python -m pipeline.check && dvc repro
	cd $@/sequences && python -m pipeline.check && dvc repro

# Random weights: measured, and not judged.
imagenet: $(VENV)/installed zoo/imagenet/dvc.yaml
	cd zoo/imagenet && python -m pipeline.check && dvc repro measure
	python -m benchmarks.imagenet

# Copies: DVC does not follow a link in an earlier commit, so that `dvc metrics diff` would find nothing there.
zoo/dvc.yaml zoo/sequences/dvc.yaml zoo/imagenet/dvc.yaml paper/dvc.yaml paper/sequences/dvc.yaml: dvc.yaml
	cp $< $@

test: $(VENV)/installed
	ruff check
	ruff format --check
	mypy
	pytest

# What takes long: whole runs of `dvc repro`, killed ones, and emulated processors, on what `make repro` built.
slow: repro
	pytest -m slow

results: repro
	python -m pipeline.results

zoo-results paper-results: %-results: %
	cd $< && python -m pipeline.results
	cd $</sequences && python -m pipeline.results

kit: repro
	python -m pipeline.kit $(RECIPE)

serve: repro
	python -m deploy.server $(if $(RECIPE),build/bundle/$(RECIPE),build/bundle/*) --verdicts build/verdicts.json

triton: repro
	python -m pipeline.triton $(RECIPE)

bench: $(VENV)/installed
	python -m benchmarks.training
	python -m benchmarks.cost
	python -m benchmarks.textbook
	python -m benchmarks.memory
	python -m benchmarks.sequences
	python -m benchmarks.engines
	python -m benchmarks.kit
	python -m benchmarks.page
	python -m benchmarks.serving --triton

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@
