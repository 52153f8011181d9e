"""What people think of answers: the sheet that they fill in, and what comes back of it."""
