"""Environments of tasks: built once, shared, fresh for every run, with nothing of an earlier task in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.executor import Run, literal, make_run, settings_in, wait_until
from support.repositories import GitServer, make_repository
from support.wheels import make_wheel, offline

NOTHING = "pass\n"
PROJECT = {
    "pyproject.toml": (
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'mine'\nversion = '1.0'\n"
    ),
    "mine.py": "place = __file__\n",
    "backend.py": """
import os, zipfile

INFO = {
    'mine-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n',
    'mine-1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n',
}

def write(folder, files):
    name = 'mine-1.0-py3-none-any.whl'
    with zipfile.ZipFile(f'{folder}/{name}', 'w') as archive:
        for path, text in {**files, **INFO}.items():
            archive.writestr(path, text)
        archive.writestr('mine-1.0.dist-info/RECORD', ''.join(f'{path},,\\n' for path in [*files, *INFO]))
    return name

def build_wheel(folder, settings=None, metadata=None):
    return write(folder, {'mine.py': open('mine.py').read()})

def build_editable(folder, settings=None, metadata=None):
    return write(folder, {'mine.pth': os.getcwd() + '\\n'})

def get_requires_for_build_wheel(settings=None):
    return []

get_requires_for_build_editable = get_requires_for_build_wheel
""",
}


class Host:
    """A host with a folder of wheels for an index."""

    def __init__(self, tmp_path: Path) -> None:
        self.state = tmp_path
        self.wheels = tmp_path / "wheels"
        self.environ = offline(os.environ, wheels=self.wheels, caches=tmp_path / "caches") | {"HOME": str(tmp_path)}
        self.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        self.attempts = 0
        make_wheel(self.wheels, "alpha", "1.0", requires=["beta"], scripts={"alpha-tool": "alpha:main"},
                   files={"alpha.py": "import sys\ndef main(): print('tool', sys.prefix)\n"},
                   data={"share/alpha/x.txt": "x"})  # fmt: skip
        make_wheel(self.wheels, "beta", "1.0", files={"beta/__init__.py": "version = '1.0'\n"})
        make_wheel(self.wheels, "beta", "2.0", files={"beta/__init__.py": "version = '2.0'\n"})

    def make(self, code: str, requirements: Sequence[str] | None, **more: Any) -> Run:
        self.attempts += 1
        return make_run(self.state, literal(code, requirements=requirements), attempt=self.attempts, **more)

    def run(self, code: str, requirements: Sequence[str] | None = ("alpha",), **more: Any) -> Run:
        run = self.make(code, requirements, **more)
        run.execute(environ=self.environ)
        return run

    def layers(self) -> list[Path]:
        return [path for path in (self.state / "venvs-cache.layers").iterdir() if not path.name.startswith(".")]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def cache_of(run: Run) -> str:
    return str(run.json("environment.json")["cache"])


def test_packages_are_installed_listed_and_reused(host: Host) -> None:
    code = "import alpha, beta; print(beta.version)\n"
    first = host.run(code)
    assert first.output() == ["2.0"], first.notices()
    report = first.json("environment.json")
    assert report["frozen"] == ["alpha==1.0", "beta==2.0"]
    assert (report["cache"], report["requirements_source"]) == ("miss", "task")
    assert "- beta==2.0" in first.notices()
    second = host.run(code)
    assert second.output() == ["2.0"]
    assert second.json("environment.json")["frozen"] == ["alpha==1.0", "beta==2.0"]
    assert cache_of(second) == "hit"
    assert "environment reused" in second.notices()


def test_a_warm_start_is_fast(host: Host) -> None:
    host.run(NOTHING)
    timings = host.run("import time\n").outcome()["timings"]
    assert timings["environment"] < 0.2


def test_programs_and_data_of_packages_belong_to_the_run(host: Host) -> None:
    code = (
        "import subprocess, sys, shutil, os\n"
        "print(subprocess.run(['alpha-tool'], capture_output=True, text=True).stdout.strip() == f'tool {sys.prefix}')\n"
        "print(open(sys.prefix + '/share/alpha/x.txt').read())\n"
    )
    for _ in range(2):
        run = host.run(code)
        assert run.output() == ["True", "x"], run.notices()


def test_metadata_and_entry_points_of_packages_are_found(host: Host) -> None:
    code = (
        "from importlib import metadata as m\n"
        "scripts = m.entry_points(group='console_scripts', name='alpha-tool')\n"
        "print(m.version('alpha'), [script.value for script in scripts])\n"
    )
    assert host.run(code).output() == ["1.0 ['alpha:main']"]


def test_nothing_of_an_earlier_task_is_importable(host: Host) -> None:
    host.run(NOTHING, ["beta==1.0"])
    names = ("beta", "alpha", "psutil")
    run = host.run(f"import importlib.util as u; print(*[u.find_spec(name) for name in {names}])\n", [])
    assert run.output() == ["None None None"]


PIP = "[sys.executable, '-m', 'pip', 'install', '--quiet', 'beta==1.0']"


@pytest.mark.parametrize(
    "install",
    [PIP, "['pip', 'install', '--quiet', '--upgrade', 'beta==1.0']", "[UV, 'pip', 'install', '--quiet', 'beta==1.0']"],
)
def test_what_a_task_installs_is_its_own(host: Host, install: str) -> None:
    uv = os.path.join(os.path.dirname(sys.executable), "uv")
    code = (
        f"import os, subprocess, sys\nUV = {uv!r}\nos.environ['UV_FIND_LINKS'] = {str(host.wheels)!r}\n"
        f"done = subprocess.run({install}, capture_output=True, text=True)\n"
        "print(done.returncode, done.stderr)\n"
        "sys.stdout.flush(); subprocess.run([sys.executable, '-c', 'import beta; print(beta.version)'])\n"
    )
    run = host.run(code)
    assert run.output()[0].startswith("0"), run.output()
    assert "1.0" in run.output()
    after = host.run("import beta; print(beta.version)\n")
    assert (after.output(), cache_of(after)) == (["2.0"], "hit")


def test_pip_lists_the_layered_packages(host: Host) -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'list', '--format=freeze'])\n"
    lines = host.run(code).output()
    assert {"alpha==1.0", "beta==2.0"} <= set(lines)


def test_a_task_that_removes_a_layered_package_removes_it_for_nobody(host: Host) -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'uninstall', '-y', 'beta', 'alpha'])\n"
    host.run(code)
    after = host.run("import alpha, beta; print('there')\n")
    assert (after.output(), cache_of(after)) == (["there"], "hit")


@pytest.mark.parametrize(
    "deed",
    [
        "open(beta.__file__, 'a').write('evil = 1\\n')",
        "open(folder + '/evil.py', 'w').write('')",
        "open(os.path.dirname(folder) + '/sitecustomize.py', 'w').write('print(1)')",
        "os.rename(beta.__file__, folder + '/other.py')",
    ],
)
def test_a_task_that_writes_into_its_packages_changes_nothing_for_the_next(host: Host, deed: str) -> None:
    code = (
        "import os, beta\nfolder = os.path.dirname(beta.__file__)\n"
        f"try: {deed}; print('done')\nexcept OSError: print('refused')\n"
    )
    did = host.run(code).output()
    assert did in (["done"], ["refused"])
    listing = (
        "import beta, os; print(hasattr(beta, 'evil'), beta.version,"
        " sorted(n for n in os.listdir(os.path.dirname(beta.__file__)) if n != '__pycache__'),"
        " str(getattr(__import__('sys').modules.get('sitecustomize'), '__file__', ''))"
        ".startswith(os.path.dirname(os.path.dirname(beta.__file__))))\n"
    )
    after = host.run(listing)
    assert after.output() == ["False 2.0 ['__init__.py'] False"], after.notices()
    if did == ["done"]:
        assert "was changed after it had been built" in after.notices()


def test_the_tools_cache_is_not_reached_through_a_layer(host: Host) -> None:
    """Not even root: what a task writes into its packages must not come back through the installer's cache."""
    code = "import beta\ntry: open(beta.__file__, 'a').write('evil = 1\\n')\nexcept OSError: pass\n"
    host.run(code, ["beta"])
    after = host.run("import beta; print(hasattr(beta, 'evil'))\n", ["beta", "alpha"])
    assert (after.output(), cache_of(after)) == (["False"], "miss")


def test_data_files_of_a_layer_are_not_written_through_links(host: Host) -> None:
    host.run("import sys; open(sys.prefix + '/share/alpha/new.txt', 'w').write('mine')\n")
    run = host.run("import sys, os; print(os.listdir(sys.prefix + '/share/alpha'))\n")
    assert (run.output(), cache_of(run)) == (["['x.txt']"], "hit")


def test_what_python_compiles_at_first_import_is_kept(host: Host) -> None:
    code = "import beta, os; print(os.path.exists(beta.__spec__.cached))\n"
    assert host.run(code).output() == ["True"]
    assert list(host.layers()[0].glob("lib/*/site-packages/beta/__pycache__/*.pyc"))
    assert cache_of(host.run(code)) == "hit"


@pytest.mark.parametrize(
    "changed",
    [
        {"requirements": ["alpha", "beta==1.0"]},
        {"settings": {"package_manager": {"extra_pip_install_flags": ("--no-deps",)}}},
        {"settings": {"package_manager": {"system_site_packages": True}}},
        {"settings": {"package_manager": {"force_upgrade": True}}},
        {"environ": {"UV_PRERELEASE": "allow"}},
    ],
)
def test_everything_that_decides_what_is_installed_is_in_the_key(host: Host, changed: Mapping[str, Any]) -> None:
    host.run(NOTHING)
    host.environ.update(changed.get("environ", {}))
    settings = settings_in(host.state, **changed.get("settings", {}))
    requirements = changed.get("requirements", ["alpha"])
    assert cache_of(host.run(NOTHING, requirements, settings=settings)) == "miss"


def test_a_folder_of_wheels_may_change_and_is_not_kept(host: Host) -> None:
    run = host.run("import alpha; print('there')\n", [f"--find-links {host.wheels}", "alpha"])
    assert (run.output(), cache_of(run)) == (["there"], "none")


def test_comments_order_and_spaces_are_not_in_the_key(host: Host) -> None:
    host.run(NOTHING, ["alpha", "beta>=1"])
    assert cache_of(host.run(NOTHING, ["# two packages", "beta>=1   # any", "", "alpha"])) == "hit"


def test_an_unresolvable_requirement_is_the_tasks_fault_and_shows_why(host: Host) -> None:
    run = host.run(NOTHING, ["beta==99"])
    outcome = run.outcome()
    assert (outcome["phase"], outcome["infrastructure"], outcome["exit_code"]) == ("environment", False, None)
    assert "beta==99" in outcome["error"]
    assert host.layers() == []


def test_an_index_that_does_not_answer_is_trouble_of_the_infrastructure(host: Host) -> None:
    del host.environ["PIP_NO_INDEX"]
    host.environ |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "2"}
    assert host.run(NOTHING, ["there-is-no-such-package"]).outcome()["infrastructure"] is True


def test_passwords_of_indexes_are_not_shown(host: Host) -> None:
    del host.environ["PIP_NO_INDEX"]
    settings = settings_in(host.state, package_manager={"extra_index_url": ("http://me:s3cr3t@127.0.0.1:9/simple",)})
    host.environ |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    run = host.run(NOTHING, ["gamma"], settings=settings)
    assert run.outcome()["exit_code"] is None
    assert "s3cr3t" not in run.notices() + json.dumps(run.outcome())


def test_the_settings_of_pip_are_honoured(host: Host) -> None:
    config = host.state / "pip.conf"
    config.write_text(f"[global]\nno-index = true\nfind-links = {host.wheels}\n")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        del host.environ[name]
    host.environ["PIP_CONFIG_FILE"] = str(config)
    assert host.run("import alpha; print('there')\n").output() == ["there"]


def test_without_a_cache_every_run_builds_its_own(host: Host) -> None:
    settings = settings_in(host.state, venvs_cache={"path": ""})
    run = host.run("import alpha; print('there')\n", settings=settings)
    assert (run.output(), cache_of(run)) == (["there"], "none")
    assert not (host.state / "venvs-cache.layers").exists()


def test_pip_brings_the_same(host: Host) -> None:
    settings = settings_in(host.state, package_manager={"type": "pip", "pip_version": ()})
    code = "import subprocess, beta; print(beta.version, subprocess.check_output(['alpha-tool'], text=True)[:4])\n"
    for expected in ("miss", "hit"):
        run = host.run(code, settings=settings)
        assert run.output() == ["2.0 tool"], run.notices()
        assert cache_of(run) == expected
        assert run.json("environment.json")["frozen"] == ["alpha==1.0", "beta==2.0"]


def test_an_installer_that_is_not_here_is_an_error(host: Host) -> None:
    run = host.run(NOTHING, settings=settings_in(host.state, package_manager={"type": "conda"}))
    assert "conda" in run.outcome()["error"]
    assert run.outcome()["infrastructure"] is False


def test_installing_nothing_can_be_asked_for(host: Host) -> None:
    run = host.run("print('ran')\n", settings=settings_in(host.state, skip_python_env_install=True))
    assert (run.output(), cache_of(run)) == (["ran"], "none")


def test_standalone_mode_uses_what_is_there(host: Host) -> None:
    assert "standalone mode installs nothing" in host.run(NOTHING, standalone=True).outcome()["error"]
    settings = settings_in(host.state, package_manager={"system_site_packages": True})
    host.run(NOTHING, settings=settings)
    assert cache_of(host.run(NOTHING, standalone=True, settings=settings)) == "hit"


# Repositories


def test_requirements_of_the_repository_on_the_way_to_the_script(host: Host) -> None:
    repository = make_repository(
        host.state / "git/net.git",
        {
            "requirements.txt": "beta<2\n",
            "src/requirements.txt": "alpha\n",
            "src/main.py": "import alpha, beta; print(beta.version)\n",
        },
    )  # fmt: skip
    run = make_run(host.state, {"repository": str(repository.folder), "entry_point": "src/main.py", "branch": "main"})
    run.execute(environ=host.environ)
    assert run.output() == ["1.0"], run.notices()
    assert run.json("environment.json")["requirements_source"] == "repository"


@pytest.mark.parametrize("line", ["./libs/mine", "-e libs/mine", "mine @ file:libs/mine"])
def test_packages_of_the_repository(host: Host, line: str) -> None:
    repository = make_repository(
        host.state / "git/net.git",
        {f"libs/mine/{name}": text for name, text in PROJECT.items()}
        | {"main.py": "import mine, beta; print(mine.place)\n"},
    )  # fmt: skip
    script = {
        "repository": str(repository.folder),
        "entry_point": "main.py",
        "requirements": {"pip": f"{line}\nbeta\n"},
    }
    run = make_run(host.state, {**script, "branch": "main"})
    run.execute(environ=host.environ)
    assert run.output(), run.notices()
    editable = line.startswith("-e")
    assert run.output()[0].startswith(str(run.workspace / ("code/libs/mine" if editable else "layer")))
    assert run.json("environment.json")["frozen"] == ["beta==2.0", line]
    assert cache_of(run) == "none"


def test_a_package_from_git_is_pinned_and_its_password_not_shown(host: Host) -> None:
    project = make_repository(host.state / "git/mine.git", PROJECT)
    commit = project.git("rev-parse", "HEAD")
    with GitServer(root=host.state / "git", password="s3cr3t-token").running() as server:
        line = f"mine @ git+{server.url('mine.git', userinfo='me:s3cr3t-token')}"
        run = host.run("import mine; print('there')\n", [f"{line}@main"])
        assert run.output() == ["there"], run.notices()
        assert cache_of(run) == "none"
        (frozen,) = run.json("environment.json")["frozen"]
        assert frozen.endswith(f"@{commit}")
        for attempt in ("miss", "hit"):
            pinned = host.run("import mine; print('there')\n", [f"{line}@{commit}"])
            assert (pinned.output(), cache_of(pinned)) == (["there"], attempt)
    shown = run.notices() + json.dumps(run.json("environment.json")) + pinned.notices()
    assert "s3cr3t" not in shown


# Several executors, and kills


def test_two_executors_that_need_the_same_layer_build_it_once(host: Host) -> None:
    runs = [host.make("import alpha; print('there')\n", ["alpha"]) for _ in range(3)]
    for run in runs:
        run.start(environ=host.environ)
    for run in runs:
        with run.ended_in_any_case():
            run.wait()
            assert run.output() == ["there"], run.notices()
    assert sorted(cache_of(run) for run in runs) == ["hit", "hit", "miss"]
    assert len(host.layers()) == 1


def test_a_kill_in_the_middle_of_a_build_is_followed_by_a_good_one(host: Host) -> None:
    slow = host.state / "bin/uv"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *--version*) echo uv 0.0; exit;; esac\ntouch {host.state}/reached\nexec sleep 60\n'
    )
    slow.chmod(0o755)
    run = host.make(NOTHING, ["alpha"], settings=settings_in(host.state, package_manager={"uv_binary": str(slow)}))
    with run.start(environ=host.environ).ended_in_any_case():
        wait_until((host.state / "reached").exists)
        assert run.process is not None
        sleeping = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(run.process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        run.process.kill()
        run.process.wait(10)
        for pid in sleeping:
            os.kill(int(pid), signal.SIGKILL)
    building = host.state / "venvs-cache.layers/.building"
    assert len(list(building.iterdir())) == 2
    good = host.run("import alpha; print('there')\n")
    assert good.output() == ["there"], good.notices()
    assert list(building.iterdir()) == []


def test_a_layer_in_use_survives_others_that_need_room(host: Host) -> None:
    settings = settings_in(host.state, venvs_cache={"max_entries": 1})
    code = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nimport alpha; print('there')\n"
    run = host.make(code, ["alpha"], settings=settings)
    with run.start(environ=host.environ).ended_in_any_case():
        wait_until((run.folder / "user.json").exists)
        for line in ("beta==1.0", "beta==2.0"):
            host.run(NOTHING, [line], settings=settings)
        (run.workspace / "code/go").touch()
        assert run.wait()["exit_code"] == 0
        assert run.output() == ["there"]
    assert len(host.layers()) == 2
