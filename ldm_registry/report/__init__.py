"""Runs, comparisons and traces as JSON, as text for a terminal, and as pictures."""
