"""How a run or a service is carried out: one small protocol for each, implemented by each backend."""
