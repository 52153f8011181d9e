"""``python -m llmops_components.serving.predictor``: serve one model."""

import os
import sys

from llmops_components.serving.predictor.server import main

status = main()
sys.stdout.flush()
os._exit(status)  # a token that is being computed for a client long gone must not hold up the exit
