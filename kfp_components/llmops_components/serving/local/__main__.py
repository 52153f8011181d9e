"""``python -m llmops_components.serving.local``: services on this machine."""

import sys

from llmops_components.serving.local.controller import main

sys.exit(main())
