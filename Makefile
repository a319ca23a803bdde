# Every target passes ARGS on: `make demo ARGS=--json`, `make test-python ARGS="-k ledger"`.
PYTHON ?= python3.11
BIN := .venv/bin
RUN := $(BIN)/python
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-python test-contracts fuzz-contracts fuzz-graphs coverage-contracts mutate-contracts slither gas \
	bench-encryption bench-round bench-training bench-utility fuzz-rounds audit-privacy check protos supported artefacts format clean

help:            ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

setup: .venv/.ready   ## prepare .venv with everything pinned, and the contract toolchain

.venv/.ready: pyproject.toml constraints.txt contracts/package-lock.json
	@test -x $(RUN) || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

contracts/node_modules/.ready: .venv/.ready contracts/package-lock.json
	$(RUN) contracts/toolchain.py install
	@touch $@

demo: setup      ## the main job: train over three hospitals on this machine
	$(BIN)/usufruct demo $(ARGS)

test: check test-contracts test-python   ## everything CI runs

test-python: setup   ## unit, integration, statistical, security and fault tests
	$(RUN) -m pytest --numprocesses 3 --no-loadscope-reorder $(ARGS)

test-contracts: contracts/node_modules/.ready   ## the committed artefacts are those of the sources; forge tests of the contracts
	$(RUN) contracts/toolchain.py test $(ARGS)

fuzz-contracts: contracts/node_modules/.ready   ## the contracts' stateful fuzz in its long form: 1,000,000 calls or more
	$(RUN) contracts/toolchain.py fuzz $(ARGS)

coverage-contracts: contracts/node_modules/.ready   ## lines and branches of the contracts that the tests reach
	$(RUN) contracts/toolchain.py coverage $(ARGS)

mutate-contracts: contracts/node_modules/.ready   ## change the contracts place by place: does a test notice? (hours; resumes; ARGS="--sample 100 --seed 1")
	$(RUN) contracts/toolchain.py mutate $(ARGS)

fuzz-graphs: setup   ## 50,000 random model graphs: none that is accepted lets one record reach another (about 15 minutes)
	USUFRUCT_FUZZ_GRAPHS=50000 $(RUN) -m pytest -n0 -s --timeout 7200 tests/security/graph/test_isolation.py $(ARGS)

slither: contracts/node_modules/.ready   ## static analysis of the contracts: medium and high only
	$(RUN) contracts/toolchain.py slither $(ARGS)

gas: contracts/node_modules/.ready   ## what each transaction costs, against its limit (ARGS=--json for one line of JSON)
	$(RUN) contracts/toolchain.py gas $(ARGS)

bench-encryption: setup   ## our encryption beside TenSEAL CKKS as NVIDIA FLARE and FedML use it (ARGS="--quick --json")
	$(RUN) tests/benchmarks/encryption.py $(ARGS)

bench-round: setup   ## whole encrypted rounds between real processes, stage by stage (ARGS="--quick --large --peers --json")
	$(RUN) tests/benchmarks/rounds.py $(ARGS)

bench-training: setup   ## samples a second of our trainer and of Opacus, as ratios to plain PyTorch (ARGS="--quick --json")
	$(RUN) tests/benchmarks/training.py $(ARGS)

bench-utility: setup   ## how good models become, beside central DP, local noise, a holder alone (resumes; an hour; ARGS="--quick --json")
	OMP_NUM_THREADS=1 $(RUN) tests/benchmarks/utility.py $(ARGS)

fuzz-rounds: setup   ## tamper with rounds and run their state machine for longer (ARGS="--manipulations 20000 --examples 500 --seed 7")
	$(RUN) tests/integration/rounds/fuzz.py $(ARGS)

audit-privacy: setup   ## audit the shipped trainer by what it releases, and plant 15 bugs (about 20 minutes; ARGS="--quick --json")
	$(RUN) tests/privacy_audit/audit.py $(ARGS)

check: setup contracts/node_modules/.ready   ## style, types, import layers, generated files
	$(BIN)/ruff check . $(ARGS)
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd contracts && ../$(BIN)/mypy --config-file ../pyproject.toml --strict toolchain.py tools
	$(BIN)/lint-imports
	$(RUN) protos/generate.py --check
	$(RUN) -m usufruct_server.holder.training.supported --check

protos: setup    ## regenerate the stubs in client/usufruct/v1
	$(RUN) protos/generate.py $(ARGS)

supported: setup   ## regenerate SUPPORTED.md from the allow-list of layers and functions
	$(RUN) -m usufruct_server.holder.training.supported $(ARGS)

artefacts: contracts/node_modules/.ready   ## recompile the contracts into client/usufruct/chain/artefacts
	$(RUN) contracts/toolchain.py compile $(ARGS)

format: setup    ## rewrite files in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:           ## remove what set-up made
	rm -rf .venv contracts/node_modules contracts/out contracts/cache
