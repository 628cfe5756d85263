#!/usr/bin/env bash
# Lints, type-checks and tests from a fresh checkout; arguments go to pytest.
#   bash scripts/test.sh                        the laws
#   bash scripts/test.sh -m thorough            long fuzzes and soaks, whole
#   bash scripts/test.sh -n0 -m speed --benchmark-enable      the timed bars, on a quiet machine
source "$(dirname "$0")/setup.sh"
install '.[dev]' dev
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
exec "$VENV/bin/pytest" -n auto --dist worksteal "$@"
