"""What runs within the sandbox: an answer's code in one, the tests of it in another. Nothing but Python's standard library is there."""
