"""One function for each command; their signatures and docstrings are the help texts."""
