"""Pipeline runs: the protocol, and who carries it out."""
