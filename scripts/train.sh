#!/usr/bin/env bash
# Trains a supernet from a fresh checkout: makes .venv, installs, runs nas-train with the overrides given.
#   bash scripts/train.sh space=chain gate=fair train.epochs=30
source "$(dirname "$0")/setup.sh"
install . run
exec "$VENV/bin/nas-train" "$@"
