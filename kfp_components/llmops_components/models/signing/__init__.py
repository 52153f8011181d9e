"""Signatures of models in the format of OpenSSF Model Signing: made and checked with the library of that name."""
