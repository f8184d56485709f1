# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

.DEFAULT_GOAL := help
.PHONY: help setup demo check integration molecule coexist test test-long bench bench-quick build clean

CHECKS := static unit golden fuzz

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install missing Debian packages, make the virtual environment and the test images
	@scripts/setup test
	@scripts/images

demo: ## fence a throwaway lab host on this machine and show the result
	@scripts/setup demo
	@PORTFENCE_VENV=demo scripts/run python scripts/demo

check: ## lint, eBPF object, ansible-test sanity, unit and golden tests, fuzzers, documentation, galaxy-importer
	@scripts/setup test
	@scripts/stages $(CHECKS)

integration: ## tests on the real kernel, in network namespaces (root)
	@scripts/setup test
	@scripts/stages integration

molecule: ## roles and playbooks on Debian 11, 12 and 13 containers with systemd (root)
	@scripts/setup test
	@scripts/stages molecule

coexist: ## Molecule beside eleven other firewalls, in every order of start; PORTFENCE_COEXIST="ufw docker" for some (root; long)
	@scripts/setup test
	@scripts/stages coexist

test: ## everything; of coexist, docker
	@scripts/setup test
	@scripts/stages $(CHECKS) integration molecule environment

test-long: ## what takes too long for every change: every point at which a run can die, a virtual machine with reboots, half an hour of soak, five minutes of each fuzzer (root; hours)
	@scripts/setup long
	@PORTFENCE_FUZZ_SECONDS=300 scripts/stages vm soak crash fuzz

bench: ## measure what the fence costs, side by side with what it replaces; writes bench/RESULTS.md (root; quiet machine)
	@scripts/setup bench
	@PORTFENCE_VENV=bench scripts/run python bench

bench-quick: ## the same with a fifth of the rounds
	@scripts/setup bench
	@PORTFENCE_VENV=bench scripts/run python bench --quick

build: ## build the collection archive in build/
	@scripts/setup test
	@scripts/build

clean: ## remove what was built here (environments and images stay in ~/.cache/portfence)
	@rm -rf build .ansible .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
