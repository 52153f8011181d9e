"""What everything that runs elsewhere shares: one run for each task, its ending, its waiting, its failure."""
