"""What speaks for an answer: contexts of its prompt, and rows that the model was trained on."""
