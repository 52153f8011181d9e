"""A language model as judge: how it is asked, what it may cost, and what it said of each row."""
