"""Everything about child processes: what environment they get, how they start, how they end."""
