"""What is said of a TrainJob: what it is made from, how it goes, why it does not, and whether a runtime can run it."""
