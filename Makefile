# Only forwards: set-up lives in scripts/bootstrap, the test run in tox.ini, everything else in the
# programs themselves. `make demo` and `make test` need nothing but git, make and Python 3.11.
.DEFAULT_GOAL := help
.PHONY: help venv demo test lint type unit kernel packaging bench soak clean lab-clean

BIN := .venv/bin

help:
	@echo "make demo       the tenant example on a two-node lab, with real packets"
	@echo "make test       every test this machine can run"
	@echo "make venv       only set up .venv and what it needs"
	@echo "make lint type unit kernel packaging    one part of the tests"
	@echo "make bench soak clean lab-clean"

venv:
	@scripts/bootstrap

demo: venv
	@$(BIN)/calico-engine demo

test: venv
	@$(BIN)/tox run -q

lint type unit kernel packaging: venv
	@$(BIN)/tox run -q -e $@

# ONLY=nft-load runs one scenario, FULL=1 takes the rounds of a figure to quote. The plot needs an extra; without a
# network it is left out.
bench: venv
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt matplotlib || true
	@$(BIN)/python -m bench $(ONLY) $(if $(FULL),--full)

soak: venv
	@$(BIN)/python -m bench.soak
	@$(BIN)/python -m bench.soak --switches 20 --kills 20
	@CE_WORLDS=3000 CE_KERNEL_WORLDS=1000 $(BIN)/pytest tests/property/test_oracle_equals_interpreter.py tests/kernel/differential

lab-clean: venv
	@$(BIN)/calico-engine lab down --all

clean:
	@scripts/bootstrap --clean
