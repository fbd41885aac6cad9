"""A bridge on this machine with hosts on it, and servers on the bridge's own address, which outlive a host's reboot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.apiserver import ServerProcess
from support.hosts import machine, product
from support.hosts.host import Host, Mode
from support.hosts.machine import Session, command
from support.hosts.rootfs import cache, root_filesystem

PROGRAMS = ("ip", "mmdebstrap", "nsenter", "systemd-nspawn")


class Network:
    """`address` is this machine's; the hosts have the ones from .11 on. There is no way from here to anywhere else."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.bridge = session.label
        self._prefix = f"10.214.{session.number}"
        self.address = f"{self._prefix}.1"
        self._booted = 0

    def server(self, data: Path | None = None, *, env: Mapping[str, str] | None = None) -> ServerProcess:
        """Our server where the hosts reach it; its `conf_path` names that address."""
        return ServerProcess(data, env=env, arguments=("--host", self.address))

    @contextmanager
    def boot(
        self, name: str = "host", *, mode: Mode = "unified", read_only: Mapping[Path, str] | None = None
    ) -> Iterator[Host]:
        """A running host of that name, gone with its disk at the end.

        `read_only` are folders of this machine, by the place where the host sees them; /opt/gpufleet always is.
        """
        self._booted += 1
        host = Host(
            name,
            session=self.session,
            root_filesystem=root_filesystem(),
            address=f"{self._prefix}.{10 + self._booted}",
            veth=f"{self.bridge}v{self._booted}",
            mode=mode,
            read_only={product.product(): product.PLACE} | dict(read_only or {}),
        )
        try:
            host.boot()
            yield host
        finally:
            host.remove()


@contextmanager
def host_network() -> Iterator[Network]:
    """A network of our own. Ordinary users' sessions skip here, because only root can boot hosts."""
    if os.geteuid():  # nothing that could be installed: namespaces, bridges and device nodes are root's to make
        pytest.skip("booting hosts needs root")
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.fail(f"missing: {', '.join(missing)}: `make test` installs the Debian packages that have them")
    with machine.session(cache()) as session:
        command("ip", "link", "add", session.label, "type", "bridge")
        network = Network(session)
        command("ip", "address", "add", f"{network.address}/24", "dev", network.bridge)
        command("ip", "link", "set", network.bridge, "up")
        yield network
