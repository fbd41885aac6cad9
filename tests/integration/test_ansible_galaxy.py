"""The collection as a file: built, installed without Galaxy, and used from where it was installed."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.ansible import COLLECTION, ROOT, Ansible

PLAYBOOKS = sorted(path.stem for path in (ROOT / "ansible/playbooks").glob("*.yml"))
MODULES = sorted(path.stem for path in (ROOT / "ansible/plugins/modules").glob("*.py"))
#: What a person's work leaves in the folder.
JUNK = ("plugins/modules/__pycache__/x.cpython-311.pyc", "tests/output/bot.json", ".ansible/x", "old-0.0.1.tar.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The archive, and an Ansible that finds the collection nowhere but where it was installed from that."""

    archive: Path
    ansible: Ansible


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("galaxy")
    source = folder / "source"
    shutil.copytree(ROOT / "ansible", source, ignore=shutil.ignore_patterns("__pycache__"))
    for name in JUNK:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    ansible = Ansible(folder)
    (folder / "collections/ansible_collections/gpufleet/clearml").unlink()  # the link to this checkout
    built = ansible.run("ansible-galaxy", "collection", "build", str(source), "--output-path", str(folder / "out"))
    assert built.returncode == 0, built.stderr
    (archive,) = (folder / "out").iterdir()
    place = str(folder / "collections")
    done = ansible.run("ansible-galaxy", "collection", "install", str(archive), "--offline", "-p", place)
    assert done.returncode == 0, done.stderr
    return Installed(archive=archive, ansible=ansible)


def test_the_archive_has_what_belongs_to_the_collection_and_no_junk(installed: Installed) -> None:
    with tarfile.open(installed.archive) as archive:
        names = {member.name for member in archive if member.isfile()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "meta/runtime.yml", "roles/agent/README.md"} <= names
    assert not [name for name in names if "__pycache__" in name or name in JUNK or name.endswith((".pyc", ".gz"))]
    everything = {str(path.relative_to(ROOT / "ansible")) for path in (ROOT / "ansible").rglob("*") if path.is_file()}
    kept = {name for name in everything if "__pycache__" not in name and name != "galaxy.yml"}
    assert names - {"MANIFEST.json", "FILES.json"} == kept


def test_every_playbook_is_found_by_its_name_and_can_be_read(installed: Installed) -> None:
    (installed.ansible.folder / "hosts.yml").write_text("{clearml_server: {hosts: {a: }}, gpu_hosts: {hosts: {b: }}}")
    names = [f"{COLLECTION}.{name}" for name in PLAYBOOKS]
    read = installed.ansible.run("ansible-playbook", "--syntax-check", "-i", "hosts.yml", *names)
    assert read.returncode == 0, read.stderr
    assert not read.stderr
    place = installed.ansible.folder / "collections/ansible_collections/gpufleet/clearml/playbooks"
    assert read.stdout.split() == [word for name in PLAYBOOKS for word in ("playbook:", str(place / f"{name}.yml"))]


def test_ansible_reads_the_documentation_of_every_plugin_and_role(installed: Installed) -> None:
    modules = [f"{COLLECTION}.{name}" for name in MODULES]
    roles = [f"{COLLECTION}.{path.name}" for path in (ROOT / "ansible/roles").iterdir()]
    for kind, names in (("module", modules), ("inventory", [f"{COLLECTION}.clearml_workers"]), ("role", roles)):
        told = installed.ansible.run("ansible-doc", "--json", "-t", kind, *names)
        assert told.returncode == 0, told.stderr
        assert not told.stderr
        assert json.loads(told.stdout).keys() == set(names)
