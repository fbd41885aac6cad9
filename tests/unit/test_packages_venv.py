"""Environments as we write them: thin, on top of layers that are never written to."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from agent.packages import venv
from agent.packages.interpreter import own


def python(folder: Path, code: str) -> str:
    command = [f"{folder}/bin/python", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()


def test_an_environment_knows_itself_and_its_base(tmp_path: Path) -> None:
    venv.write_environment(str(tmp_path / "env"), own())
    found = json.loads(
        python(tmp_path / "env", "import sys, json; print(json.dumps([sys.prefix, sys.base_prefix, sys.path]))")
    )
    assert found[0] == str(tmp_path / "env")
    assert found[1] == own().prefix
    assert [path for path in found[2] if "site-packages" in path] == [f"{tmp_path}/env/{own().site_packages}"]


def test_packages_of_the_agent_and_of_its_base_are_not_seen(tmp_path: Path) -> None:
    venv.write_environment(str(tmp_path / "env"), own())
    code = "import importlib.util as u; print(u.find_spec('agent'), u.find_spec('psutil'), u.find_spec('setuptools'))"
    assert python(tmp_path / "env", code) == "None None None"


def test_layers_are_seen_behind_the_environments_own_packages(tmp_path: Path) -> None:
    layer = tmp_path / "layer" / own().site_packages
    layer.mkdir(parents=True)
    (layer / "mine.py").write_text("place = 'layer'\n")
    (layer / "extra.pth").write_text(f"{tmp_path}/editable\n")
    (tmp_path / "editable").mkdir()
    (tmp_path / "editable/edited.py").write_text("")
    venv.write_environment(str(tmp_path / "env"), own(), site_folders=[str(layer)])
    assert python(tmp_path / "env", "import mine, edited; print(mine.place)") == "layer"
    (tmp_path / "env" / own().site_packages / "mine.py").write_text("place = 'env'\n")
    assert python(tmp_path / "env", "import mine; print(mine.place)") == "env"


def test_namespace_packages_of_both_places_are_one(tmp_path: Path) -> None:
    layer, env = tmp_path / "layer" / own().site_packages, tmp_path / "env"
    venv.write_environment(str(env), own(), site_folders=[str(layer)])
    for place, name in ((layer, "one"), (env / own().site_packages, "two")):
        (place / "shared").mkdir(parents=True)
        (place / f"shared/{name}.py").write_text("")
    assert python(env, "import shared.one, shared.two; print('both')") == "both"


def test_system_packages_can_be_let_in(tmp_path: Path) -> None:
    venv.write_environment(str(tmp_path / "env"), own(), system_site_packages=True)
    code = "import sys; print(any(p.startswith(sys.base_prefix) and p.endswith('-packages') for p in sys.path))"
    assert python(tmp_path / "env", code) == "True"


def test_pip_runs_from_its_wheel(tmp_path: Path) -> None:
    wheel = venv.pip_wheel_for(own(), own())
    assert wheel is not None
    venv.write_environment(str(tmp_path / "env"), own(), pip_wheel=wheel)
    done = subprocess.run([f"{tmp_path}/env/bin/pip", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("pip ")
    assert python(tmp_path / "env", "import pip; print(pip.__file__)").startswith(wheel)


def test_the_activation_script_can_be_sourced_and_undone(tmp_path: Path) -> None:
    folder = tmp_path / "my env"
    venv.write_environment(str(folder), own())
    code = f". '{folder}/bin/activate'; command -v python; deactivate; echo $PATH"
    done = subprocess.run(["sh", "-c", code], check=True, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.stdout.splitlines() == [f"{folder}/bin/python", "/usr/bin:/bin"]


@pytest.mark.parametrize("folder", ["env", "x" * 150, "with a space and 'quote'"])
@pytest.mark.parametrize(
    "script",
    [
        "#!/build/k/bin/python\nimport sys\nprint(sys.prefix)\n",
        "#!/build/k/bin/python3.11 -E\nimport sys\nprint(sys.prefix)\n",
        "#!/bin/sh\n'''exec' '/build/k/bin/python' \"$0\" \"$@\"\n' '''\nimport sys\nprint(sys.prefix)\n",
        "#!/bin/sh\n'''exec' /build/k/bin/python \"$0\" \"$@\"\n' '''\nimport sys\nprint(sys.prefix)\n",
    ],
)
def test_scripts_get_the_interpreter_of_the_environment(tmp_path: Path, folder: str, script: str) -> None:
    env = tmp_path / folder
    venv.write_environment(str(env), own())
    path = env / "bin/tool"
    path.write_bytes(venv.with_interpreter(script.encode(), "/build/k", str(env)))
    path.chmod(0o755)
    assert subprocess.run([str(path)], check=True, capture_output=True, text=True).stdout.strip() == str(env)


def test_programs_and_data_of_a_layer_are_shown_through_links_to_files(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    for path, text in {
        "bin/tool": "#!/built/bin/python\n",
        "bin/native": "\x7fELF",
        "bin/python": "",
        "share/tool/data.txt": "data",
        "etc/tool.conf": "",
        f"{own().site_packages}/mine.py": "",
        "pyvenv.cfg": "",
    }.items():
        (layer / path).parent.mkdir(parents=True, exist_ok=True)
        (layer / path).write_text(text)
    files = venv.files_of(str(layer), "/built", own().site_packages)
    assert (files.scripts, files.programs) == (("bin/tool",), ("bin/native",))
    assert files.data == ("etc/tool.conf", "share/tool/data.txt")
    env = tmp_path / "env"
    venv.write_environment(str(env), own())
    venv.add_programs(str(env), str(layer), files)
    assert (env / "bin/tool").read_text() == f"#!{env}/bin/python\n"
    assert (env / "share/tool/data.txt").read_text() == "data"
    assert not (env / "share/tool").is_symlink()
    (env / "share/tool/new.txt").write_text("stays here")
    assert not (layer / "share/tool/new.txt").exists()
    assert os.readlink(env / "bin/native") == str(layer / "bin/native")
