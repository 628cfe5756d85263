#!/usr/bin/env bash
# Runs the tests marked cuda and the gating suite on a GPU, in at most 8 minutes, on a machine whose python3 (or
# NAS_PYTHON) has a torch of 2.9 or newer with CUDA, and no package index. All else travels as wheels in wheels/.
#   bash scripts/gpu.sh wheels 3.12     first, on a machine with an index and scripts/test.sh's .venv, for a Python 3.12
#                                       there; more words go to pip, such as torchvision==0.26.0, the one for that torch
#   bash scripts/gpu.sh                 then there; arguments go to nas-bench, as in rounds=10 hydra.run.dir=found
# It prints the card, versions, pytest's last lines and the table. The exit code is 0 if tests ran, all of them passed,
# and the suite ended.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fill() {
    local version="$1" venv="${NAS_VENV:-.venv}" what platform platforms=()
    for platform in 2_28 2_27 2_17 2014 1; do platforms+=(--platform "manylinux_${platform}_x86_64"); done
    platforms=("${platforms[@]/manylinux_2014/manylinux2014}") platforms=("${platforms[@]/manylinux_1_/manylinux1_}")
    rm -rf wheels && mkdir wheels
    "$venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir wheels .
    # What the package and the tests need, in the versions of this environment; torch brings its own.
    needed="$("$venv/bin/python" - "$version" wheels/gated_nas-*.whl <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, distribution, distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

there = {"python_version": sys.argv[1], "python_full_version": f"{sys.argv[1]}.0", "extra": ""}
(ours,) = distributions(path=[sys.argv[2]])
found, left = {"torch": "", "torchvision": ""}, ["pytest", "pytest-benchmark", *(ours.requires or ())]
while left:
    need = Requirement(left.pop())
    if canonicalize_name(need.name) in found or not (need.marker is None or need.marker.evaluate(there)):
        continue
    try:
        known = distribution(need.name)
    except PackageNotFoundError:  # an older Python needs it
        found[canonicalize_name(need.name)] = f"{need.name}{need.specifier}"
        continue
    found[canonicalize_name(need.name)] = f"{need.name}=={known.version}"
    left += known.requires or ()
print(*filter(None, found.values()))
PYTHON
)"
    for what in $needed "${@:2}"; do  # a few have no wheel for that version, and are pure Python
        "$venv/bin/python" -m pip download --quiet --no-deps --only-binary :all: --python-version "$version" \
            "${platforms[@]}" --dest wheels "$what" 2>/dev/null ||
            "$venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir wheels "$what"
    done
    du -sh wheels
}

if [ "${1:-}" = wheels ]; then
    fill "${@:2}"
    exit
fi

python="${NAS_PYTHON:-python3}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$scratch/site" wheels/*.whl
export PYTHONPATH="$PWD:$scratch/site" OMP_NUM_THREADS=1
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null || echo "nvidia-smi answers nothing"
"$python" -c 'import platform, torch; print(f"torch {torch.__version__}, Python {platform.python_version()}")'

status=0
timeout 240 "$python" -m pytest -q -p no:cacheprovider -m cuda tests/cuda >"$scratch/tests.log" 2>&1 || status=$?
tail -n 30 "$scratch/tests.log"
if ! grep -q "[0-9] passed" "$scratch/tests.log"; then
    echo "gpu.sh: no test passed (pytest ended with $status)" >&2
    status=1
fi
timeout 210 "$python" -m nas.cli.bench device=cuda rounds=30 "$@" || {
    status=$?
    echo "gpu.sh: nas-bench ended with $status; 124 means after 210 s, and rounds=10 is quicker" >&2
}
exit "$status"
