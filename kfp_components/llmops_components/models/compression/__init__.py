"""Models whose weights take less room: which ways there are, what such a model has to look like, and how one is made."""
