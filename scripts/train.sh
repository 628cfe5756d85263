#!/usr/bin/env bash
# Trains a supernet from a fresh checkout: makes .venv, installs, runs nas-train with the overrides given.
#   bash scripts/train.sh space=chain gate=fair train.epochs=30
here="$PWD"
source "$(dirname "$0")/setup.sh"
install . run
cd "$here" # paths on the command line, and outputs/, are the caller's
exec "$VENV/bin/nas-train" "$@"
