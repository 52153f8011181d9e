"""Join compiled components into one pipeline."""
