"""The embedded ClearML-compatible API server and file server."""

__version__ = "0.1.0"
