# make demo    trains a small model, makes it ten times smaller and runs both
# make test    every check of the project; what .ci/run calls
# make clean   removes what the two have made
#
# Each sets itself up in .venv. The machine needs Python >= 3.11, make and a C++ compiler.

SHELL := /bin/sh
VENV := .venv/bin/python
BUILT_FROM := pyproject.toml $(wildcard runtime/cpp/*)
.SUFFIXES:

.PHONY: demo test clean

demo: .venv/ready-demo
	@$(VENV) models/demo.py

test: .venv/ready-test
	@$(VENV) .ci/stages.py

# The mark of a finished set-up: the project with its extra `demo` or `test`, and the library built from these very sources.
.venv/ready-%: $(BUILT_FROM) .ci/setup
	@.ci/setup $*

clean:
	rm -rf .venv build demo .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
