#!/usr/bin/env bash
# Thousands of fuzzed configs, files and budgets with fresh seeds; the suite tries a few of the same. About half an hour
# on a core. What it finds is printed as an example to keep beside the others; further words go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
FUZZ_ALL=1 "${PYTHON:-python3}" -m pytest tests/fuzz "$@"
