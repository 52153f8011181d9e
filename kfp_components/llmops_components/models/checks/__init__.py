"""What is looked at before a model is served: whose it is, what its files are, whether a policy allows it."""
