"""What is said of a TrainJob: how it goes, why it does not, and whether a runtime can run it."""
