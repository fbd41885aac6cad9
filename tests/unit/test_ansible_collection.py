"""What the Ansible collection says about itself agrees with what it is: specifications, defaults, pages, versions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.ansible import ROOT

from agent import __version__
from tools.role_readme import specification, with_table

COLLECTION = ROOT / "ansible"
ROLES = {path.name: path for path in (COLLECTION / "roles").iterdir()}
PLAYBOOKS = {path.stem: path for path in (COLLECTION / "playbooks").glob("*.yml")}
PLUGINS = [*COLLECTION.glob("plugins/modules/*.py"), *COLLECTION.glob("plugins/inventory/*.py")]
PAGES = [*COLLECTION.glob("*.md"), *COLLECTION.glob("roles/*/README.md")]
#: Not what a secret is called, and may hold one all the same: user:password@host.
URLS_WITH_CREDENTIALS = {"agent_index_url", "apiserver_database_url"}


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _options(role: str) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = specification(ROLES[role])["options"]
    return options


# --- roles


@pytest.mark.parametrize("role", sorted(ROLES))
def test_the_specification_of_a_role_has_its_defaults_and_nothing_else(role: str) -> None:
    defaults = _yaml(ROLES[role] / "defaults/main.yml")
    assert {name: option["default"] for name, option in _options(role).items()} == defaults


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_variable_of_a_role_is_described_and_begins_with_its_name(role: str) -> None:
    for name, option in _options(role).items():
        assert option["description"], name
        assert option["type"] in {"str", "int", "bool", "list", "dict"}, name
        assert ("elements" in option) == (option["type"] == "list"), name
        assert name.startswith(f"{role}_")


@pytest.mark.parametrize("role", sorted(ROLES))
def test_secrets_of_a_role_are_kept_out_of_logs(role: str) -> None:
    secrets = {name for name in _options(role) if re.search("secret|password|token", name)}
    secrets |= URLS_WITH_CREDENTIALS & _options(role).keys()
    assert {name for name, option in _options(role).items() if option.get("no_log")} == secrets


def test_roles_have_no_url_with_credentials_that_is_gone() -> None:
    assert {name for role in ROLES for name in _options(role)} >= URLS_WITH_CREDENTIALS


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_entry_point_of_a_role_is_a_file_of_tasks(role: str) -> None:
    for name, spec in _yaml(ROLES[role] / "meta/argument_specs.yml")["argument_specs"].items():
        assert (ROLES[role] / f"tasks/{name}.yml").exists(), name
        assert spec["short_description"], name


@pytest.mark.parametrize("role", sorted(ROLES))
def test_the_page_of_a_role_has_the_variables_of_its_specification(role: str) -> None:
    page = (ROLES[role] / "README.md").read_text()
    assert page.startswith(f"# gpufleet.clearml.{role}\n")
    assert with_table(page, specification(ROLES[role])) == page, "run tools/role_readme.py"


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_says_which_ansible_and_which_hosts_it_is_for(role: str) -> None:
    about = _yaml(ROLES[role] / "meta/main.yml")["galaxy_info"]
    assert about["min_ansible_version"] == "2.16"
    assert {platform["name"] for platform in about["platforms"]} == {"Debian", "Ubuntu", "EL"}


# --- playbooks


@pytest.mark.parametrize("playbook", sorted(PLAYBOOKS))
def test_a_playbook_begins_with_what_it_is_for_and_has_its_line_in_the_readme(playbook: str) -> None:
    head = PLAYBOOKS[playbook].read_text().partition("\n- name:")[0]
    assert head.startswith("---\n# ")
    line = re.search(rf"(?m)^\| `{playbook}` \|.*$", (COLLECTION / "README.md").read_text())
    assert line
    mentioned = set(re.findall(rf"\b{playbook}_[a-z_]+\b", head))
    assert set(re.findall(rf"`({playbook}_[a-z_]+)`", line[0])) == mentioned


# --- the collection as a whole


def test_the_collection_has_the_version_of_the_product() -> None:
    about = _yaml(COLLECTION / "galaxy.yml")
    assert about["version"] == __version__
    assert f"\n## {__version__} " in (COLLECTION / "CHANGELOG.md").read_text()
    assert about["dependencies"] == {}


def test_the_oldest_ansible_is_that_of_the_roles() -> None:
    assert _yaml(COLLECTION / "meta/runtime.yml")["requires_ansible"] == ">=2.16.0"


def test_the_readme_has_every_role_and_plugin() -> None:
    page = (COLLECTION / "README.md").read_text()
    assert set(re.findall(r"\(roles/(\w+)/README\.md\)", page)) == ROLES.keys()
    for plugin in PLUGINS:
        assert f"| `{plugin.stem}`" in page, plugin


def test_modules_that_take_the_server_are_one_action_group() -> None:
    groups = _yaml(COLLECTION / "meta/runtime.yml")["action_groups"]
    assert groups == {"clearml": sorted(path.stem for path in COLLECTION.glob("plugins/modules/clearml_*.py"))}


def test_links_of_the_collections_pages_stay_within_it() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            path = (page.parent / target).resolve()
            assert path.is_relative_to(COLLECTION), f"{page}: {target}"
            assert path.exists(), f"{page}: {target}"
