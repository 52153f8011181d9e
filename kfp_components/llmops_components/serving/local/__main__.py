"""``python -m llmops_components.serving.local``: services on this machine."""

import sys

from llmops_components.serving.local.command import main

sys.exit(main())
