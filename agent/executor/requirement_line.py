"""One line that names something to install, understood as one of a few kinds.

    name==1.2; python_version > "3.8"     from an index
    name @ https://host/x.whl             an archive by URL
    git+https://host/org/repo@ref         a version control system; its password moves into a credential
    ./libs/x, name @ file:///x, x.whl     a path, relative to the repository

Options behind a requirement are left out with a warning, hashes excepted. What cannot be understood is refused, and so
is a repository that a task could not have itself.
"""

from __future__ import annotations

import re
from dataclasses import replace

from agent.errors import SetupFailed
from agent.executor.places import Places, warning_of_absent
from agent.executor.wanted import Found, Kind, Requirement, normalised

_NAME = r"(?s)^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[^\]]*\])?\s*(.*)$"
_VCS = r"^(git|hg|bzr|svn)\+"
_COMMIT = r"@[0-9a-f]{40}(?=$|#|\s|;)"
_EGG = r"#egg=([A-Za-z0-9._-]+)"
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz")
_PER_LINE = r"\s+--(?!hash)[a-z-]+(?:[= ]\S+)?"


class LineReader:
    """Reads one line after the other into `found`; their paths are looked for in `places`."""

    def __init__(self, places: Places, found: Found) -> None:
        self._places = places
        self._found = found

    def read(self, line: str) -> None:
        self._add(self._requirement(line, line))

    def read_editable(self, value: str, line: str) -> None:
        """`value` is what the option `--editable` of this line says."""
        inner = self._requirement(self._without_options(value), line)
        if inner is not None:
            self._add(replace(inner, text=f"--editable {inner.text}", recorded=line, lasting=False))

    def _add(self, requirement: Requirement | None) -> None:
        if requirement is not None:
            self._found.requirements.append(requirement)

    def _requirement(self, text: str, recorded: str) -> Requirement | None:
        text = self._without_options(text)
        if re.match(_VCS, text):
            return self._vcs("", text, recorded)
        if "://" in text.partition(";")[0] and " @ " not in text and "@" not in text.partition("://")[0]:
            return self._by_url("", text, recorded)
        match = re.match(_NAME, text)
        if match and match[3].startswith("@"):
            return self._direct(match[1], match[2] or "", match[3][1:].strip(), recorded)
        if text.startswith((".", "/", "~", "file:")) or "/" in text.partition(";")[0] or text.endswith(_ARCHIVES):
            return self._path("", text, recorded)
        if match is None:
            raise SetupFailed(f"cannot read the requirement {recorded!r}")
        if not match[3] and not match[2] and self._places.has_project(text):
            return self._path("", text, recorded)
        return Requirement(text=text, recorded=recorded, name=normalised(match[1]), kind=Kind.INDEX)

    def _without_options(self, text: str) -> str:
        if (cut := re.sub(_PER_LINE, "", text)) != text:
            self._found.warnings.append(f"requirements: the options of {cut.split()[0]} are left out")
        return cut.strip()

    def _direct(self, name: str, extras: str, url: str, recorded: str) -> Requirement | None:
        label = f"{name}{extras} @ "
        if re.match(_VCS, url):
            return self._vcs(label, url, recorded)
        if url.startswith("file:") or "://" not in url:
            return self._path(label, url, recorded)
        return self._by_url(label, url, recorded)

    def _by_url(self, label: str, url: str, recorded: str) -> Requirement | None:
        if url.startswith("file:"):
            return self._path(label, url, recorded)
        return Requirement(text=f"{label}{url}", recorded=recorded, name=_name_of(label), kind=Kind.URL)

    def _vcs(self, label: str, url: str, recorded: str) -> Requirement:
        system, _, address = url.partition("+")
        address = self._without_userinfo(address)
        _refuse_strange(address, recorded)
        return Requirement(
            text=f"{label}{system}+{address}",
            recorded=recorded,
            name=_name_of(label) or normalised((re.search(_EGG, url) or ["", ""])[1]),
            kind=Kind.VCS,
            lasting=re.search(_COMMIT, address) is not None,
        )

    def _without_userinfo(self, address: str) -> str:
        """A password in the URL of a repository goes where git finds it and nobody reads it."""
        scheme, separator, rest = address.partition("://")
        who, at, place = rest.partition("@") if "@" in rest.partition("/")[0] else ("", "", rest)
        if not at or scheme not in ("http", "https"):
            return address
        from agent.executor.remotes import parse

        _, credential = parse(f"{scheme}://{who}@{place.partition('/')[0]}/x")
        if credential is not None:
            self._found.credentials.append(credential)
        return f"{scheme}{separator}{place}"

    def _path(self, label: str, text: str, recorded: str) -> Requirement | None:
        plain, marker = _split_marker(text)
        extras = ""
        if (match := re.search(r"\[[^\]/]*\]$", plain)) is not None:
            plain, extras = plain[: match.start()], match[0]
        path = self._places.existing(_file_path(plain))
        if path is None:
            self._found.warnings.append(warning_of_absent(_file_path(plain)))
            return None
        where = f"{label}file://{_percent_encoded(path)}" if label else f"{path}{extras}"
        return Requirement(
            text=f"{where}{marker}", recorded=recorded, name=_name_of(label), kind=Kind.PATH, lasting=False
        )


def _refuse_strange(address: str, recorded: str) -> None:
    """A repository is one that a task could have itself: no helper program of git, and no option in its address."""
    from agent.executor.git import refuse_option
    from agent.executor.remotes import hide_userinfo, parse

    plain = address.partition("#")[0].partition(" ;")[0].strip()
    head, at, reference = plain.rpartition("@")
    if not at or "/" in reference or "/" not in head.partition("://")[2] + head.partition(":")[2]:
        head, reference = plain, ""
    try:
        refuse_option("reference", reference)
        parse(head)
    except SetupFailed as error:
        raise SetupFailed(f"the requirement {hide_userinfo(recorded)!r}: {error.message}", hint=error.hint) from error


def _name_of(label: str) -> str:
    return normalised(label.removesuffix(" @ ").partition("[")[0].strip())


def _split_marker(text: str) -> tuple[str, str]:
    plain, separator, marker = text.partition(" ;")
    if not separator:
        plain, separator, marker = text.partition("; ")
    return plain.strip(), f" ; {marker.strip()}" if separator else ""


def _file_path(text: str) -> str:
    if not text.startswith("file:"):
        return text
    from urllib.parse import unquote

    return unquote(text.removeprefix("file:").removeprefix("//").removeprefix("localhost").partition("#")[0])


def _percent_encoded(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
