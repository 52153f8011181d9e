"""Data sets: files, formats and contents, and whether they are what training and evaluation take."""
