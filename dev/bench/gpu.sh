#!/usr/bin/env bash
# What a GPU makes of training and generation, in one table. Meant to take less than eight minutes; it has not run on a card yet.
#   dev/setup && dev/bench/gpu.sh [--write FILE.md]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec .venv/data/bin/python dev/bench/bench_device.py --device cuda --model smollm2 1.7b --batch 16 --steps 30 --prompts 16 64 "$@"
