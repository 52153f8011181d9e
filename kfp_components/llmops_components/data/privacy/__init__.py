"""Personal data in texts: found without a model and without a network, then masked or replaced by stand-ins."""
