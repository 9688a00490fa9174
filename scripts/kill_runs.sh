#!/usr/bin/env bash
# Kills runs of every method at 600 random moments in all (or as many as the first word says), and compares what they end with
# to runs that were left alone. Prints in which phases they were killed. Some minutes on one core.
set -euo pipefail
cd "$(dirname "$0")/.."
KILLS="${1:-600}" python -m pytest -q -s -m "" tests/run/test_killed.py -k random_moments
