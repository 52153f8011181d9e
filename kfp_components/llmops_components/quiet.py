"""What libraries print for people at a terminal, and a log has no use for."""

from __future__ import annotations

import logging


def quiet_torchao() -> None:
    """Keep torch from saying, in every process, how torchao registers its types: Transformers and PEFT import it with every model.

    Call it before they are imported.
    """
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Switch off progress bars that redraw themselves: in a task log every redraw is another line."""
    import warnings

    quiet_torchao()
    import datasets
    import huggingface_hub.constants
    import transformers

    # TRL and PEFT still use names that Transformers is about to drop; a user can do nothing about that.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # PEFT looks for the base model where it came from to see whether its vocabulary was changed; ours never is.
    warnings.filterwarnings("ignore", message="Could not find a config file in")
    # It advises to untie the weights, which merging does.
    warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings=True`")
    # TRL tells its authors of every trainer that is built; with no network that only takes time.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
