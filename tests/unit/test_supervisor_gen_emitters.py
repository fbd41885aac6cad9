"""What the emitters write, as those understand it who read it: systemd's and supervisord's own programs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor.options import ServerOptions

from agent.errors import ConfigError
from agent.gpu.kernel import cpu_list
from supervisor_gen.emitters import EMITTERS
from supervisor_gen.emitters.base import cpus_in, is_ours, options_for
from supervisor_gen.emitters.systemd import SHIPPED, TEMPLATE, value_for, word_for
from supervisor_gen.model import AgentSettings, Device, File, Files, HostPlan, Limits, Place, PlannedAgent, Site
from supervisor_gen.writer import write_files

PLACE = Place("/etc/gpufleet/topology.conf", 7)
#: Text as a topology lets it through: no control characters.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


def device(index: int, **more: object) -> Device:
    given: dict[str, object] = {
        "uuid": f"GPU-{index}",
        "label": str(index),
        "model": "H100",
        "memory_mib": 81559,
        "numa": 0,
        "cpus": "0-1",
        "nodes": (f"/dev/nvidia{index}",),
        **more,
    }
    return Device(**given)  # type: ignore[arg-type]


def agent(name: str = "gpu0", *devices: Device, **settings: object) -> PlannedAgent:
    settings.setdefault("queues", ("train",))
    return PlannedAgent(name=name, place=PLACE, settings=AgentSettings(**settings), devices=devices)  # type: ignore[arg-type]


def emitted(format_: str, *agents: PlannedAgent, site: Site | None = None) -> Files:
    return EMITTERS[format_].files_for(HostPlan(host="gpu01", agents=agents), site or Site())


def of_systemd(text: str) -> str:
    """The value of an EnvironmentFile= line as systemd reads it (parse_env_file of its src/basic/env-file.c)."""
    if text.startswith("'"):
        assert text.endswith("'")
        return text[1:-1]
    if text.startswith('"'):
        assert text.endswith('"')
        return re.sub(r'\\(["\\`$])', r"\1", text[1:-1])
    return text


def words_of(text: str) -> list[str]:
    """How systemd splits an unbraced variable: quotes group, a backslash takes the next character as it is."""
    words: list[str] = []
    word, quote, is_open, at = "", "", False, 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
            word, is_open = word + text[at], True
        elif quote:
            quote, word = ("", word) if char == quote else (quote, word + char)
        elif char in "\"'":
            quote, is_open = char, True
        elif char in " \t\n\r":
            words += [word] if is_open else []
            word, is_open = "", False
        else:
            word, is_open = word + char, True
        at += 1
    return words + ([word] if is_open else [])


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_any_words_reach_the_agent_through_the_environment_file(words: list[str]) -> None:
    line = value_for(" ".join(word_for(word) for word in words))
    assert words_of(of_systemd(line)) == words


@given(st.sets(st.integers(0, 300), min_size=1))
def test_a_list_of_cpus_is_read_back_as_written(cpus: set[int]) -> None:
    assert cpus_in(cpu_list(sorted(cpus))) == cpus


def test_every_file_is_recognised_as_ours() -> None:
    for format_ in EMITTERS:
        files = emitted(format_, agent("gpu0", device(0)), agent("services", services_mode=-1))
        assert files
        assert all(is_ours(file.text) for file in files.values())
    assert not is_ours("[Service]\n# Made by supervisor-gen\n")


def test_what_an_emitter_writes_is_what_it_may_remove(tmp_path: Path) -> None:
    for format_, emitter in EMITTERS.items():
        root = tmp_path / format_
        files = emitted(format_, agent("gpu0", device(0)))
        write_files(root, files)
        found = {
            str(path.relative_to(root)) for pattern in emitter.patterns for path in root.glob(pattern) if path.is_file()
        }
        assert found == set(files)


def test_each_file_belongs_to_its_agent_and_the_shipped_ones_to_nobody() -> None:
    for format_, emitter in EMITTERS.items():
        for path in emitted(format_, agent("gpu0", device(0))):
            owner = emitter.owner(path)
            assert owner == ("gpu0" if "gpu0" in path else "")


def test_only_root_may_read_what_may_hold_secrets() -> None:
    secret = agent("gpu0", device(0), environment={"HF_TOKEN": "hf_secret"})
    for format_ in EMITTERS:
        holding = [file for file in emitted(format_, secret).values() if "hf_secret" in file.text]
        assert [file.mode for file in holding] == [0o600]


def test_an_agent_is_fenced_to_its_own_nodes_on_the_slice_and_on_the_service() -> None:
    part = device(0, uuid="MIG-1", label="0:1", nodes=("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12"))
    files = emitted("systemd", agent("gpu0mig1", part))
    rules = [
        *("DeviceAllow=/dev/nvidia0 rw", "DeviceAllow=/dev/nvidia-caps/nvidia-cap12 rw"),
        *("DeviceAllow=/dev/nvidiactl rw", "DeviceAllow=char-nvidia-uvm rw"),
    ]
    for path in ("clearml-agents-gpu0mig1.slice", "clearml-agent@gpu0mig1.service.d/agent.conf"):
        text = files[f"etc/systemd/system/{path}"].text
        assert [line for line in text.splitlines() if line.startswith("DeviceAllow=")] == rules
    assert "DevicePolicy=closed" in files["etc/systemd/system/clearml-agents-gpu0mig1.slice"].text
    assert "DevicePolicy=closed" in files[TEMPLATE].text


def test_an_agent_without_devices_may_not_even_open_the_control_nodes() -> None:
    files = emitted("systemd", agent("services"))
    assert not any("DeviceAllow" in file.text for path, file in files.items() if path not in SHIPPED.values())


def test_units_start_the_program_that_was_named() -> None:
    files = emitted("systemd", agent("gpu0", device(0)), site=Site(program="/srv/fleet/bin/clearml-agent"))
    assert "ExecStart=/srv/fleet/bin/clearml-agent " in files[TEMPLATE].text
    assert not any("/opt/gpufleet" in file.text for file in files.values())


def test_a_reload_hands_over_the_file_that_the_agent_was_given() -> None:
    files = emitted("systemd", agent("gpu0", device(0)), agent("own", config_file="/etc/other.conf"))
    assert "--config-file ${GPUFLEET_CONFIG_FILE} reload --give-file\n" in files[TEMPLATE].text
    assert "Environment=GPUFLEET_CONFIG_FILE=/etc/gpufleet/clearml.conf\n" in files[TEMPLATE].text
    drop_in = "etc/systemd/system/clearml-agent@{}.service.d/agent.conf"
    assert "\nEnvironment=GPUFLEET_CONFIG_FILE=/etc/other.conf\n" in files[drop_in.format("own")].text
    assert "GPUFLEET_CONFIG_FILE" not in files[drop_in.format("gpu0")].text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"queues": ("a b", "c")}, ["--queue", "a b", "c"]),
        ({"services_mode": -1}, ["--services-mode", "--queue", "train"]),
        ({"services_mode": 5}, ["--services-mode", "5", "--queue", "train"]),
        ({"uptime": ("20-23 SUN", "00-08 MON")}, ["--queue", "train", "--uptime", "20-23 SUN", "00-08 MON"]),
        (
            {"mode": "docker", "image": "debian:12", "arguments": ("-e", "A=b")},
            ["--queue", "train", "--docker", "debian:12", "-e", "A=b"],
        ),
        ({"order_fairness": True, "options": ("-O",)}, ["--queue", "train", "--order-fairness", "-O"]),
    ],
)
def test_settings_become_options_of_the_daemon(settings: dict[str, object], words: list[str]) -> None:
    assert list(options_for(agent("services", **settings))) == ["--cpu-only", *words]


@pytest.fixture
def everything() -> tuple[PlannedAgent, ...]:
    return (
        agent(
            "gpu0", device(0), limits=Limits(memory="50%", tasks=100, cpu_weight=200), environment={"A": "x % $y \"'"}
        ),
        agent("pair", device(1), device(2, numa=1)),
        agent("services", services_mode=-1, user="builder", config_file="/etc/other.conf"),
        agent("boxes", device(3), mode="docker", image="debian:12"),
        agent("pods", device(4), mode="podman", image="debian:12"),
    )


def test_systemd_finds_nothing_to_complain_about_in_any_unit(
    tmp_path: Path, everything: tuple[PlannedAgent, ...]
) -> None:
    write_files(tmp_path, emitted("systemd", *everything, site=Site(program="/bin/clearml-agent")))
    (tmp_path / "bin").mkdir()
    for program in ("clearml-agent", "supervisor-gen"):
        (tmp_path / "bin" / program).touch(0o755)
    shutil.copytree("/lib/systemd/system", tmp_path / "lib/systemd/system", symlinks=True)
    units = [
        *("clearml-agents.target", "clearml-agents.slice", "clearml-agents-apply.service"),
        *(f"clearml-agent@{one.name}.service" for one in everything),
        *(f"clearml-agents-{one.name}.slice" for one in everything),
    ]
    command = ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), done.stderr


def test_an_agent_is_exposed_to_no_more_than_it_needs(tmp_path: Path) -> None:
    files = emitted("systemd", agent("gpu0", device(0)))
    unit = tmp_path / "clearml-agent@gpu0.service"
    drop_in = files["etc/systemd/system/clearml-agent@gpu0.service.d/agent.conf"].text
    unit.write_text(files[TEMPLATE].text + drop_in)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout


def test_each_switch_that_is_left_off_has_its_reason_in_the_unit() -> None:
    template = emitted("systemd")[TEMPLATE].text
    left_off = template.partition("# What systemd-analyze would like besides")[2]
    for name in (
        *("PrivateDevices=", "PrivateNetwork=", "IPAddressDeny=", "RestrictAddressFamilies=", "PrivateUsers="),
        *("~@privileged", "ProcSubset=", "MemoryDenyWriteExecute=", "~@resources", "RemoveIPC=", "RootDirectory="),
    ):
        assert name in left_off


def loaded(tmp_path: Path, files: Files) -> dict[str, object]:
    """The programs that supervisord itself reads from these files."""
    write_files(tmp_path, files)
    main = tmp_path / "supervisord.conf"
    main.write_text(f"[supervisord]\n[include]\nfiles = {tmp_path}/etc/supervisor/conf.d/*.conf\n")
    options = ServerOptions()
    options.realize(["-c", str(main)])
    return {program.name: program for group in options.process_group_configs for program in group.process_configs}


def test_supervisord_reads_the_programs_as_they_were_meant(tmp_path: Path) -> None:
    queue = "odd \"name\" 100% 'x'"
    one = agent("gpu0", device(0), queues=("train", queue), environment={"RATIO": "100%,5", "SAID": 'a "b" c'})
    site = Site(program="/opt/a b/clearml-agent", log_dir=str(tmp_path))
    programs = loaded(tmp_path, emitted("supervisord", one, agent("services"), site=site))
    assert set(programs) == {"gpu0", "services"}
    program = programs["gpu0"]
    assert shlex.split(program.command)[0] == "/opt/a b/clearml-agent"  # type: ignore[attr-defined]
    assert shlex.split(program.command)[-3:] == ["--queue", "train", queue]  # type: ignore[attr-defined]
    environment = program.environment  # type: ignore[attr-defined]
    assert environment["RATIO"] == "100%,5"
    assert environment["SAID"] == 'a "b" c'
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    assert environment["CLEARML_WORKER_ID"] == "gpu01:gpu0"
    assert (program.stopsignal, program.stopasgroup, program.killasgroup) == (15, False, False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", ["both \" and '.", 'at an "end"', "a ; b", "a #b"])
def test_what_supervisord_cannot_be_told_is_refused_with_its_place(value: str) -> None:
    with pytest.raises(ConfigError, match=r"line 7.*cannot be told") as caught:
        emitted("supervisord", agent("gpu0", device(0), environment={"SECRET": value}))
    assert value not in str(caught.value)


def test_a_file_is_only_as_open_as_it_has_to_be() -> None:
    assert emitted("systemd")["etc/systemd/system-generators/clearml-agents"].mode == 0o755
    assert File("").mode == 0o644
