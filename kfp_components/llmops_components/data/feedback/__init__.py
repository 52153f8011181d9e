"""What people have said of a service's answers: the log, the feedback, and the rows that a training learns from."""
