"""What is to be run, in all the forms entry points come in."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import SetupFailed
from agent.executor.entry import entry_for
from agent.models import Script


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "src/deep").mkdir(parents=True)
    for name in ("train.py", "src/train.py", "src/deep/x.py", "with space.py", "run.sh"):
        (tmp_path / name).write_text("pass\n")
    return tmp_path


def test_a_file_with_arguments(root: Path) -> None:
    entry = entry_for(Script(entry_point="train.py --fold 2 --name 'a b'", working_dir="src"), str(root))
    assert entry.file == f"{root}/src/train.py"
    assert entry.folder == f"{root}/src"
    assert entry.arguments == ("--fold", "2", "--name", "a b")


def test_a_file_whose_name_has_a_space(root: Path) -> None:
    entry = entry_for(Script(entry_point="with space.py"), str(root))
    assert entry.file == f"{root}/with space.py"
    assert entry.arguments == ()


def test_an_entry_beside_the_working_directory(root: Path) -> None:
    assert entry_for(Script(entry_point="../train.py", working_dir="src"), str(root)).file == f"{root}/train.py"


def test_a_module_with_arguments(root: Path) -> None:
    entry = entry_for(Script(entry_point="-m pkg.train --fold 2", working_dir="src"), str(root))
    assert (entry.option, entry.arguments, entry.file) == ("-m", ("pkg.train", "--fold", "2"), None)


def test_a_working_directory_that_names_the_script_of_a_module(root: Path) -> None:
    script = Script(entry_point="-m torch.distributed.run train.py", working_dir="src:train.py")
    entry = entry_for(script, str(root), literal=True)
    assert entry.file == f"{root}/src/train.py"
    assert entry.folder == f"{root}/src"
    assert entry.arguments == ("torch.distributed.run", "train.py")


def test_the_old_form_with_a_colon(root: Path) -> None:
    entry = entry_for(Script(entry_point="train.py:src"), str(root))
    assert entry.file == f"{root}/src/train.py"


@pytest.mark.parametrize(("binary", "name"), [("python3", "untitled.py"), ("/bin/bash", "untitled.sh")])
def test_a_script_without_a_name_gets_one(root: Path, binary: str, name: str) -> None:
    assert entry_for(Script(binary=binary), str(root), literal=True).file == f"{root}/{name}"


@pytest.mark.parametrize(
    ("entry_point", "working_dir"),
    [
        ("../outside.py", "."),
        ("../../outside.py", "src"),
        ("/etc/passwd", "."),
        ("train.py", ".."),
        ("train.py", "src/../../x"),
        ("train.py", "/etc"),
        ("train.py:..", "."),
        ("-m run", "..:x.py"),
    ],
)
def test_paths_that_leave_the_checkout_are_refused(root: Path, entry_point: str, working_dir: str) -> None:
    with pytest.raises(SetupFailed):
        entry_for(Script(entry_point=entry_point, working_dir=working_dir), str(root))


@pytest.mark.parametrize("entry_point", ["", "missing.py --x", "-m", "train.py 'open quote"])
def test_an_entry_that_cannot_be_run_says_why(root: Path, entry_point: str) -> None:
    with pytest.raises(SetupFailed, match=r"entry point|nothing to run"):
        entry_for(Script(entry_point=entry_point), str(root))


def test_a_missing_working_directory_says_so(root: Path) -> None:
    with pytest.raises(SetupFailed, match="working directory 'nowhere'"):
        entry_for(Script(entry_point="train.py", working_dir="nowhere"), str(root))
