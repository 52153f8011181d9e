"""Whether a model can be talked into harm: probes, and what tells by an answer that one of them has worked."""
