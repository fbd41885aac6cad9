"""A bridge on this machine with hosts on it, and servers on the bridge's own address, which outlive a host's reboot."""

from __future__ import annotations

import itertools
import os
import shutil
import unittest
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.apiserver import ServerProcess
from support.hosts import machine, product
from support.hosts.host import Host, Init, Mode
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
        self._numbers = itertools.count(1)  # threads may boot hosts side by side

    def server(self, data: Path | None = None, *, env: Mapping[str, str] | None = None) -> ServerProcess:
        """Our server where the hosts reach it; its `conf_path` names that address."""
        return ServerProcess(data, env=env, arguments=("--host", self.address))

    @contextmanager
    def boot(
        self,
        name: str = "host",
        *,
        mode: Mode = "unified",
        init: Init = "systemd",
        installed: bool = True,
        read_only: Mapping[Path, str] | None = None,
    ) -> Iterator[Host]:
        """A running host of that name, gone with its disk at the end.

        `read_only` are folders of this machine, by the place where the host sees them; so is /opt/gpufleet, unless
        the product is not `installed` yet.
        """
        number = next(self._numbers)
        opt_gpufleet = {product.product(): product.PLACE} if installed else {}
        host = Host(
            name,
            session=self.session,
            root_filesystem=root_filesystem(),
            address=f"{self._prefix}.{10 + number}",
            veth=f"{self.bridge}v{number}",
            mode=mode,
            init=init,
            read_only=opt_gpufleet | dict(read_only or {}),
        )
        try:
            host.boot()
            yield host
        finally:
            host.remove()


@contextmanager
def host_network() -> Iterator[Network]:
    """A network of our own. Ordinary users' tests are skipped here, because only root can boot hosts."""
    if os.geteuid():  # nothing that could be installed: namespaces, bridges and device nodes are root's to make
        raise unittest.SkipTest("booting hosts needs root")  # pytest takes it for a skip, a program for an error
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise RuntimeError(f"missing: {', '.join(missing)}: `make test` installs the Debian packages that have them")
    with machine.session(cache()) as session:
        command("ip", "link", "add", session.label, "type", "bridge")
        network = Network(session)
        command("ip", "address", "add", f"{network.address}/24", "dev", network.bridge)
        command("ip", "link", "set", network.bridge, "up")
        yield network
