"""What a host has told pip is told to uv."""

from __future__ import annotations

from pathlib import Path

from agent.packages import pipconf
from agent.packages.pipconf import ConfigFile


def test_files_are_read_weakest_first(tmp_path: Path) -> None:
    for folder in ("xdg/pip", ".pip", ".config/pip"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "xdg/pip/pip.conf").write_text("1")
    (tmp_path / ".pip/pip.conf").write_text("2")
    (tmp_path / ".config/pip/pip.conf").write_text("3")
    (tmp_path / "named").write_text("4")
    environ = {
        "HOME": str(tmp_path),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
        "PIP_CONFIG_FILE": str(tmp_path / "named"),
    }
    texts = [file.text for file in pipconf.config_files(environ) if file.path != "/etc/pip.conf"]
    assert texts == ["1", "2", "3", "4"]
    assert pipconf.config_files({**environ, "PIP_CONFIG_FILE": "/dev/null"}) == ()


def test_later_files_and_variables_win() -> None:
    files = [
        ConfigFile(path="a", text="[global]\nindex-url = https://a\nextra_index_url = https://x\n  https://y\n"),
        ConfigFile(path="b", text="[install]\nindex-url = https://b\n[list]\nindex-url = https://not\n"),
        ConfigFile(path="c", text="this is no configuration"),
    ]
    assert pipconf.settings(files, {"PIP_TIMEOUT": "7", "PIP_CONFIG_FILE": "x"}) == {
        "index-url": "https://b",
        "extra-index-url": "https://x\nhttps://y",
        "timeout": "7",
    }


def test_wishes_are_translated() -> None:
    found = {
        "index-url": "https://mirror/simple",
        "extra-index-url": "https://x/simple\nhttps://y/simple",
        "find-links": "/wheels /more",
        "cert": "/etc/ca.pem",
        "trusted-host": "mirror",
        "no-index": "true",
        "pre": "no",
        "proxy": "http://proxy:3128",
    }
    assert pipconf.for_uv(found, {}) == {
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "UV_INDEX": "https://x/simple https://y/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_INSECURE_HOST": "mirror",
        "UV_NO_INDEX": "1",
        "ALL_PROXY": "http://proxy:3128",
    }


def test_what_was_said_to_uv_stays_said() -> None:
    found = {"index-url": "https://pip", "cert": "/a", "extra-index-url": "https://x"}
    said = {"UV_INDEX_URL": "https://uv", "SSL_CERT_FILE": "/b", "UV_EXTRA_INDEX_URL": "https://z"}
    assert pipconf.for_uv(found, said) == {}
