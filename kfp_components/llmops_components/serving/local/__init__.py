"""Services on this machine: what starts, watches and leads to predictors."""
