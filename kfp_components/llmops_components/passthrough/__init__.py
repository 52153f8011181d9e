"""Dicts of the caller into the libraries' own classes: declared types, and where a name belongs."""
