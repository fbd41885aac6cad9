"""A task seen from inside: set it up, run it, keep its output, write how it ended."""
