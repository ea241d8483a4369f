# Everything a newcomer needs: make demo, make test. Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUN ?= runs/demo

.PHONY: help demo test lint format bench clean

help:
	@echo "make demo              from nothing to a report, on painted cells"
	@echo "make demo DATA=folder  the same on your images (FOLDER/<class>/<subject>_*.png, or C-NMC)"
	@echo "make test              set up, lint, type-check, test"
	@echo "make bench             benchmarks, as ratios against what a user would pick instead"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[train,survival,wsi,dicom,tensorboard,cluster,test]'
	@touch $@

demo: $(INSTALLED)
	rm -rf $(RUN)
	$(BIN)/leukoscope run $(if $(DATA),$(DATA),--painted 600) -o $(RUN) --config demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/pytest -n 2 --dist loadgroup

bench: $(INSTALLED)
	for part in bootstrap memory survival; do $(BIN)/python benchmarks/$$part.py || exit 1; done

clean:
	rm -rf $(VENV) runs build dist
