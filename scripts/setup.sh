# Makes .venv and installs this checkout into it, once; sourced by the other scripts with the extra that they need.
# NAS_PYTHON chooses the interpreter, NAS_VENV the folder.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="$(realpath -m "${NAS_VENV:-.venv}")"

find_python() {
    local candidate
    for candidate in ${NAS_PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.10 to 3.13 found; install one, or name it: NAS_PYTHON=/path/to/python bash $0" >&2
    return 1
}

# Installs what is named ("." or ".[dev]") unless this very pyproject.toml has been installed so before.
install() {
    local what="$1" done="$VENV/installed-$2" log="$VENV/install.log"
    if [ -e "$done" ] && cmp -s pyproject.toml "$done"; then
        return
    fi
    local python
    python="$(find_python)"
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
    echo "installing into $VENV (torch alone is some gigabytes; minutes the first time) ..." >&2
    if ! "$VENV/bin/python" -m pip install --editable "$what" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "the installation failed; the whole log is $log" >&2
        return 1
    fi
    cp pyproject.toml "$done"
}
