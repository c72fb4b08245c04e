# The two commands: `make demo` and `make test`. Both set themselves up; nothing is installed outside this folder.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
ARGS ?=
bin := .venv/bin

.PHONY: demo test setup lint types imports unit locks wire peers benchmarks-smoke benchmarks chaos fuzz clean \
	bridges example-flower example-nvflare example-fma example-node example-bucket example-mirrors

demo: setup
	$(bin)/python -m worker demo $(ARGS)

test: lint types imports unit

# The stamp is the lock's: a changed lock installs anew, an unchanged one costs nothing.
setup: .venv/installed

.venv/installed: requirements/dev.txt
	$(PYTHON) -c 'import sys; sys.exit("fedqueue needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(bin)/python || $(PYTHON) -m venv .venv
	$(bin)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	touch $@

lint: setup
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: setup
	$(bin)/mypy

imports: setup
	$(bin)/lint-imports --no-logo

unit: setup
	$(bin)/python -m pytest -m "not wide" --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Node.js comes in a wheel: nothing is installed outside this folder. Packages come from wherever npm is told to look.
node_packages := examples/node/node_modules/.package-lock.json
npm := PATH="$(CURDIR)/.peers/node/bin:$$PATH" npm --no-audit --no-fund --loglevel=error

# After a change of requirements/*.in or a package.json. The locks hold hashes and no addresses: stock pip and npm install
# them anywhere.
locks: setup .peers/node/installed
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/run.in --output-file requirements/run.txt
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/dev.in --output-file requirements/dev.txt
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/peers-flower.in --output-file requirements/peers-flower.txt
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/peers-nvflare.in --output-file requirements/peers-nvflare.txt
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/peers-mirrors.in --output-file requirements/peers-mirrors.txt
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/peers-fastapi.in --output-file requirements/peers-fastapi.txt
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/peers-node.in --output-file requirements/peers-node.txt
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/peers-fma.in --output-file requirements/peers-fma.txt
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --no-deps --python-version 3.11 requirements/peers-fma-alone.in --output-file requirements/peers-fma-alone.txt
	$(npm) install --package-lock-only --omit-lockfile-registry-resolved --prefix requirements/peers-node
	$(npm) install --package-lock-only --omit-lockfile-registry-resolved --prefix examples/node

# After a change of fedqueue.messages: what docs/wire.md links to.
wire: setup
	$(bin)/python -m fedqueue.wire docs/wire

# What others do, each in an environment of its own: benchmarks/aggregation.py and benchmarks/events.py measure against it.
peers: .peers/flower/installed .peers/nvflare/installed .peers/fastapi/installed .peers/mirrors/installed .peers/fma/installed $(node_packages) .peers/node/node_modules/.package-lock.json

.peers/%/installed: requirements/peers-%.txt
	test -x .peers/$*/bin/python || $(PYTHON) -m venv .peers/$*
	.peers/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	touch $@

$(node_packages): examples/node/package-lock.json .peers/node/installed
	$(npm) ci --prefix examples/node
	touch $@

# The judge of docs/wire/asyncapi.json.
.peers/node/node_modules/.package-lock.json: requirements/peers-node/package-lock.json .peers/node/installed
	cp requirements/peers-node/package*.json .peers/node
	$(npm) ci --prefix .peers/node
	touch $@

# Participants in Node.js, on a hub of their own: one is run twice and counts once, four learn handwritten digits together.
example-node: setup $(node_packages)
	$(bin)/python -m examples.node $(ARGS)

# FMA pins versions that no Python of today installs: it comes without what it asks for, which stands in the other file.
.peers/fma/installed: requirements/peers-fma.txt requirements/peers-fma-alone.txt
	test -x .peers/fma/bin/python || $(PYTHON) -m venv .peers/fma
	.peers/fma/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/peers-fma.txt
	.peers/fma/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements/peers-fma-alone.txt
	touch $@

# The hub takes over a real FMA deployment, whose clients notice nothing.
example-fma: setup .peers/fma/installed
	$(bin)/python -m examples.fma $(ARGS)

# Flower's ServerApp and NVIDIA FLARE's server ask and collect, the hub aggregates: whole, and killed in the middle of a round.
example-flower: setup .peers/flower/installed
	$(bin)/python -m examples.flower $(ARGS)
	$(bin)/python -m examples.flower --kill $(ARGS)

example-nvflare: setup .peers/nvflare/installed
	$(bin)/python -m examples.nvflare $(ARGS)
	$(bin)/python -m examples.nvflare --kill $(ARGS)

# The hub's store is a bucket of moto's server; half of the participants have no credentials for it. Whole, and with its workers
# killed all the while.
example-bucket: setup
	$(bin)/python -m examples.bucket $(ARGS)
	$(bin)/python -m examples.bucket --kill $(ARGS)

# MLflow and TensorBoard show a training, and are held against the hub; the mirror is killed in the middle.
example-mirrors: setup .peers/mirrors/installed
	$(bin)/python -m examples.mirrors $(ARGS)

bridges: example-flower example-nvflare example-fma example-bucket example-node example-mirrors

# The full sizes want a quiet machine: some ten minutes and 12 GB of memory.
benchmarks: setup peers
	$(bin)/python -m benchmarks.aggregation $(ARGS)

# Every benchmark small and once: that each runs to its end and its outcomes agree, not how fast this machine is.
benchmarks-smoke: setup peers
	$(bin)/python -m benchmarks.aggregation --quick
	$(bin)/python -m benchmarks.differences
	$(bin)/python -m benchmarks.memory --quick
	$(bin)/python -m benchmarks.latency --updates 30 --database both --any-speed
	$(bin)/python -m benchmarks.events --quick --any-speed
	$(bin)/python -m benchmarks.bridges --quick --any-speed

# A million inputs or ten minutes for each parser, whichever is over first: more than an hour on two cores.
fuzz: setup
	mkdir -p .evidence && rm -f .evidence/fuzz.jsonl
	CHAOS_EVIDENCE=$(CURDIR)/.evidence/fuzz.jsonl FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) FUZZ_EXECUTIONS=$(or $(FUZZ_EXECUTIONS),1000000) \
		$(bin)/python -m pytest -m wide tests/fuzz $(ARGS)
	$(bin)/python -m tests.chaos.report $(wildcard .evidence/chaos.jsonl) .evidence/fuzz.jsonl > docs/reliability.md

# The long form of everything in tests/chaos: half an hour on every pair of database and broker that is there (225 seconds
# each, 10,000 kills together), then the rest, of which what measures has the machine to itself. A red run is reported, too.
pairs := tests/chaos/test_process_chaos.py
alone := $(patsubst %,tests/chaos/test_%.py,flood peers idle_children recovery zombies)
longest := $(patsubst %,tests/chaos/test_%.py,mutations_of_processes mutations failpoint_machine network)
shared := $(longest) $(filter-out $(pairs) $(alone) $(longest),$(wildcard tests/chaos/test_*.py))

chaos: setup
	mkdir -p .evidence && rm -f .evidence/chaos.jsonl
	export CHAOS_EVIDENCE=$(CURDIR)/.evidence/chaos.jsonl PEER_UPDATES=600 MACHINE_EXAMPLES=1000 STATUS_EXAMPLES=1000; status=0; \
	CHAOS_SECONDS=$(or $(CHAOS_SECONDS),225) $(bin)/python -m pytest -m wide $(pairs) $(ARGS) || status=$$?; \
	$(bin)/python -m pytest $(shared) --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS) || status=$$?; \
	CHAOS_SECONDS=300 $(bin)/python -m pytest $(alone) $(ARGS) || status=$$?; \
	$(bin)/python -m tests.chaos.report $(wildcard .evidence/fuzz.jsonl) .evidence/chaos.jsonl > docs/reliability.md; \
	exit $$status

clean:
	rm -rf .venv .peers examples/node/node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
