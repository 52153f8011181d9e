"""Which model goes to those who use it."""
