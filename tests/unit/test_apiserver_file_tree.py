"""Paths from strangers stay inside the root."""

import errno
import os

import pytest

from apiserver import file_tree
from apiserver.file_tree import DiskFullError, FileTree, OccupiedPathError, PathError, parts_of


@pytest.fixture
def root(tmp_path):
    return tmp_path / "files"


@pytest.fixture
def tree(root):
    tree = FileTree(root)
    yield tree
    tree.close()


def put(tree, path, data=b"data"):
    upload = tree.begin()
    upload.write(data)
    upload.keep(parts_of(path))


def content(tree, path):
    file = tree.open(path)
    try:
        return os.read(file.handle, file.size + 1)
    finally:
        os.close(file.handle)


def test_a_file_comes_back_as_it_was_put(tree, root):
    put(tree, "/Proj %C3%A9/task/a.bin", b"\x00\xff")
    assert content(tree, "Proj %C3%A9/task/a.bin") == b"\x00\xff"
    assert (root / "Proj %C3%A9" / "task" / "a.bin").read_bytes() == b"\x00\xff"


def test_an_upload_replaces_an_earlier_file_at_once(tree):
    put(tree, "a/b", b"old")
    before = tree.open("a/b")
    put(tree, "a/b", b"new!")
    assert os.read(before.handle, 10) == b"old"
    os.close(before.handle)
    assert content(tree, "a/b") == b"new!"


@pytest.mark.parametrize("path", ["", "/", ".", "..", "a/../b", "../etc/passwd", "a/..", "a\0b", ".incoming/x"])
def test_paths_that_lead_nowhere_or_outside_are_refused(path):
    with pytest.raises(PathError):
        parts_of(path)


def test_a_link_is_not_followed(tree, root, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("s3cret")
    (root / "way").symlink_to(secret)
    (root / "key").symlink_to(secret / "key")
    for path in ("way/key", "key"):
        with pytest.raises(PathError):
            tree.open(path)
    with pytest.raises(OccupiedPathError):
        put(tree, "way/new")
    with pytest.raises(PathError):
        tree.delete_with_content("way/key")
    tree.delete_with_content("way")
    put(tree, "key", b"mine")
    assert (secret / "key").read_text() == "s3cret"
    assert os.listdir(secret) == ["key"]


def test_a_folder_or_a_pipe_is_no_file(tree, root):
    put(tree, "a/b")
    os.mkfifo(root / "pipe")
    for path in ("a", "pipe", "a/b/c"):
        with pytest.raises(PathError):
            tree.open(path)


@pytest.mark.parametrize("path", ["a", "a/b/c", "x" * 300])
def test_a_file_cannot_take_the_place_of_a_folder_or_stand_below_a_file(tree, path):
    put(tree, "a/b")
    with pytest.raises(OccupiedPathError):
        put(tree, path)
    assert content(tree, "a/b") == b"data"


def test_an_upload_that_is_given_up_leaves_nothing(tree, root):
    upload = tree.begin()
    upload.write(b"half")
    upload.discard()
    assert os.listdir(root) == [".incoming"]
    assert os.listdir(root / ".incoming") == []


def test_what_a_killed_server_left_half_done_is_cleared_away(root):
    FileTree(root).begin().write(b"half")
    tree = FileTree(root)
    assert os.listdir(root / ".incoming") == []
    tree.close()


def test_a_full_disk_is_told_apart(tree, monkeypatch):
    def full(handle, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    upload = tree.begin()
    monkeypatch.setattr(file_tree.os, "write", full)
    with pytest.raises(DiskFullError):
        upload.write(b"data")
    upload.discard()


def test_folders_are_deleted_with_their_content_only_when_asked(tree, root):
    put(tree, "a/b/c")
    with pytest.raises(PathError):
        tree.delete("a/b")
    tree.delete_with_content("a/b")
    assert os.listdir(root / "a") == []
    with pytest.raises(PathError):
        tree.delete("a/b/c")
