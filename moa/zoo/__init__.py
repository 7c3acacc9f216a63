"""Recipes of the miniature world's model zoo: `python -m moa.zoo --help`."""
