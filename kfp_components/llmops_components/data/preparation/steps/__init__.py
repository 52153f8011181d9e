"""The steps that a preparation may declare, a theme a module."""
