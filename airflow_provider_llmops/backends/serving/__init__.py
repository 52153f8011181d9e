"""Services: the manifest, the protocol, and who carries it out."""
