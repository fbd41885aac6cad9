"""One module per service of the protocol; importing a module registers its endpoints."""

from __future__ import annotations

from importlib import import_module

MODULES = (
    "auth",
    "event_curves",
    "event_documents",
    "event_download",
    "event_pages",
    "events",
    "login",
    "models",
    "next_task",
    "projects",
    "queues",
    "server",
    "task_content",
    "task_status",
    "tasks",
    "users",
    "workers",
)


def load() -> None:
    """Import every module of the package."""
    for name in MODULES:
        import_module(f"{__name__}.{name}")
