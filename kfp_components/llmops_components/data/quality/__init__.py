"""Rules on the quality of texts that others have published, with their thresholds: Gopher, C4, FineWeb."""
