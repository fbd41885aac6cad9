"""Hosts for tests: a real systemd as PID 1 with a disk, an address and GPUs of its own, booted in about a second.

    with host_network() as network, network.server() as server, network.boot("gpu1") as host:
        install_gpus(host, CONFIGS / "8xh100.conf")
        host.push(server.conf_path, "/etc/gpufleet/clearml.conf")
        host.systemctl("start", "clearml-agents.target")

A host is a container of systemd-nspawn over one Debian root filesystem, which mmdebstrap builds once (`rootfs`); what
it writes goes to a layer of its own, so that its disk outlives a reboot or a crash and not the test. `/opt/gpufleet`
holds this checkout as an operator installs it (`product`). A network joins the hosts of a session to servers that run
beside the tests; nothing else can be reached from a host.

Which limits the kernel enforces depends on the control groups that a host is booted with:

    mode        looks like            DevicePolicy, sandboxing    MemoryMax, TasksMax, CPUQuota
    unified     today's GPU hosts     enforced (BPF)              accepted, not enforced
    hybrid      systemd of 2016-2020  enforced (v1 devices)       enforced

`MODES` are those that this machine can boot: hybrid needs cgroup v1, which a machine with cgroup2 alone does not have.

`network.boot(name, init="plain")` is a host without systemd: a few lines of shell as PID 1, and sshd. On any host,
`allow_ssh` lets an operator in who becomes root with sudo, as configuration management does.

Everything a session leaves on the machine (mounts, network namespaces, a bridge, control groups, processes) is
registered before it is made (`machine`): it goes at the end of the session, and if that was killed with the next one.

Hosts are booted by root only. Other people's sessions skip these tests; root's never do.
"""

from support.hosts.gpus import install_gpus, set_gpus
from support.hosts.host import MODES, OPERATOR, Host, Init, Mode
from support.hosts.network import Network, host_network
from support.hosts.product import PRODUCT, product

__all__ = [
    "MODES",
    "OPERATOR",
    "PRODUCT",
    "Host",
    "Init",
    "Mode",
    "Network",
    "host_network",
    "install_gpus",
    "product",
    "set_gpus",
]
