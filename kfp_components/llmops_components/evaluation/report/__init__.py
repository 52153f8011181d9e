"""What an evaluation shows to people: one page that needs nothing beside it, the same as JSON and as Markdown."""
