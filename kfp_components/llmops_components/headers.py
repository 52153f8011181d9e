"""Headers of our own, which services send and their clients read: the only place for their names."""

# Of an answer, the revision that it is from; of a request, the one revision that is to answer it.
REVISION_HEADER = "x-llmops-revision"
PROMPT_TOKENS_HEADER = "x-llmops-prompt-tokens"
COMPLETION_TOKENS_HEADER = "x-llmops-completion-tokens"
