"""What the server is told: one frozen value, made by `cli` from options, environment and file, used by everything
else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens, where it keeps its data, and its limits; durations are seconds."""

    host: str = "127.0.0.1"
    port: int = 8008
    files_port: int = 8081
    data: Path
    database_url: str = ""  # empty: SQLite in the data directory
    log_level: str = "info"
    json_logs: bool = False

    max_body_bytes: int = 64 * MIB
    max_batch_bytes: int = 32 * MIB
    max_wait_seconds: float = 25.0
    pop_lease_seconds: float = 120.0
    reservation_seconds: float = 3.0
    tombstone_seconds: float = 24 * 3600.0
    worker_timeout_seconds: int = 600
    housekeeping_seconds: float = 2.0
    reconcile_seconds: float = 60.0
    watchdog_seconds: float = 900.0
    non_responsive_seconds: float = 7200.0
    token_seconds: int = 2_592_000
    feature_set: str = "basic"
    trusted_proxies: tuple[str, ...] = ()

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.data / 'server.db'}"

    @property
    def files(self) -> Path:
        """The root of the file server."""
        return self.data / "files"

    @property
    def client_config(self) -> Path:
        """The ready `clearml.conf` for agents and the SDK."""
        return self.data / "clearml.conf"
