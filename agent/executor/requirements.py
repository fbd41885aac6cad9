"""Which packages a task wants: read from the task or from its repository, line by line, into a plan.

The text is a requirements file as pip knows it, written by people, by the SDK, and by earlier runs of an agent. Each
line becomes one of a few kinds (below); options that would change how *everything on the host* is installed are not
passed on.

    name==1.2; python_version > "3.8"     from an index
    name @ https://host/x.whl             an archive by URL
    git+https://host/org/repo@ref         a version control system; its password moves into a credential
    ./libs/x, name @ file:///x, x.whl     a path, relative to the repository
    -e <path or git URL>                  editable

    -r FILE, -c FILE                      read, relative to the file that says so
    --extra-index-url URL, -f PLACE       hold for this task only
    -i URL                                taken as one more extra index: which index is the default is the host's choice
    --pre, --no-binary X, --only-binary X passed on
    --no-index, --trusted-host, others    left out, with a warning

What goes into a command line or a variable of an installer is checked word by word first, so that no value of an option
is taken for another option. What cannot be understood is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from agent.config.schema import PackageManagerSettings
from agent.errors import SetupFailed
from agent.executor.checkout import Source
from agent.executor.entry import Entry, really_inside
from agent.executor.workspace import Workspace
from agent.models import Script
from agent.packages.base import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.remotes import Credential


class Kind(StrEnum):
    """Where a requirement comes from."""

    INDEX = "index"
    URL = "url"
    VCS = "vcs"
    PATH = "path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One requirement: `text` as an installer takes it, `recorded` as it was written, `name` normalised or empty.

    `lasting` means that the text alone says what will be installed, today and in a month (up to what an index adds).
    """

    text: str
    recorded: str
    name: str
    kind: Kind
    lasting: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a task wants installed. `origin` is "task", "repository" or "none"."""

    origin: str
    requirements: tuple[Requirement, ...] = ()
    constraints: tuple[str, ...] = ()
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    credentials: tuple[Credential, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_lasting(self) -> bool:
        """Whether the same wish means the same packages for another task."""
        return all(each.lasting for each in self.requirements) and not any(
            "://" not in place for place in self.find_links
        )


def requirements_for(script: Script, source: Source, entry: Entry, workspace: Workspace) -> Wanted:
    """The recorded packages where there are any, else every `requirements.txt` on the way to the script."""
    settings = workspace.settings.agent.package_manager
    recorded = _recorded(script, settings)
    if recorded.strip():
        places = tuple(dict.fromkeys((entry.folder, source.root)))
        wanted = _Reader(places, source.root).read(recorded, origin="task")
    else:
        wanted = _from_repository(source, entry)
    for warning in wanted.warnings:
        workspace.console.warning(warning)
    return wanted


def _recorded(script: Script, settings: PackageManagerSettings) -> str:
    if settings.force_repo_requirements_txt:
        return ""
    wanted = script.requirements
    if settings.force_original_requirements and (wanted.get("org_pip") or "").strip():
        return wanted["org_pip"] or ""
    return wanted.get("pip") or ""


def _from_repository(source: Source, entry: Entry) -> Wanted:
    script_folder = os.path.dirname(entry.file) if entry.file else entry.folder
    merged = Wanted(origin="none")
    for folder in _way_down(source.root, script_folder):
        path = f"{folder}/requirements.txt"
        if os.path.isfile(really_inside(source.root, path, what="requirements file")):
            merged = _merge(merged, _Reader((folder,), source.root).read(_text_of(path), origin="repository"))
    return merged


def _way_down(root: str, folder: str) -> list[str]:
    relative = os.path.relpath(folder, root)
    found = [root]
    for part in relative.split(os.sep) if relative != "." else []:
        found.append(f"{found[-1]}/{part}")
    return found


def _merge(one: Wanted, other: Wanted) -> Wanted:
    return Wanted(
        origin=other.origin,
        requirements=_once((*one.requirements, *other.requirements)),
        constraints=(*one.constraints, *other.constraints),
        extra_indexes=(*one.extra_indexes, *other.extra_indexes),
        find_links=(*one.find_links, *other.find_links),
        flags=(*one.flags, *other.flags),
        credentials=(*one.credentials, *other.credentials),
        warnings=(*one.warnings, *other.warnings),
    )


def _once(requirements: Sequence[Requirement]) -> tuple[Requirement, ...]:
    """Equal lines once; of several mentions of the SDK the last one counts."""
    last = {each.name: each for each in requirements if each.name in ("clearml", "trains")}
    kept = [each for each in requirements if last.get(each.name, each) is each]
    return tuple({(each.name, each.text): each for each in kept}.values())


def plan_for(wanted: Wanted, settings: PackageManagerSettings) -> Plan:
    """In which rounds to install what is wanted, by the four lists of `agent.package_manager`.

    Priority packages come first in their round: an installer that resolves everything together needs no more.
    """
    first, after, optional = [], [], []
    later: list[str] = []
    for each in wanted.requirements:
        if each.name in _names(settings.post_optional_packages) | _names(settings.priority_optional_packages):
            optional.append(each.text)
        elif each.name in _names(settings.post_packages):
            after.append(each.text)
        elif each.name in _names(settings.priority_packages):
            first.append(each.text)
        else:
            later.append(each.text)
    return Plan(
        needed=(*first, *later),
        after=tuple(after),
        optional=tuple(optional),
        constraints=wanted.constraints,
        extra_indexes=(*wanted.extra_indexes, *settings.extra_index_url),
        find_links=wanted.find_links,
        flags=(*wanted.flags, *settings.extra_pip_install_flags),
        upgrade=settings.force_upgrade,
    )


def _names(names: Sequence[str]) -> frozenset[str]:
    return frozenset(normalised(name) for name in names)


def normalised(name: str) -> str:
    """A project's name in the one spelling that all its spellings share (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


_NAME = r"(?s)^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[^\]]*\])?\s*(.*)$"
_VCS = r"^(git|hg|bzr|svn)\+"
_COMMIT = r"@[0-9a-f]{40}(?=$|#|\s|;)"
_COMMENT = r"(^|\s)#.*$"
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz")
#: One word of a line of options: `--name`, `--name=value`, `-n`, `-nvalue`.
_OPTION = r"(?s)(--[a-z0-9-]+|-[a-zA-Z])(?:\Z|=(.*)\Z|(?<=^-[a-zA-Z])(.+)\Z)"
_EDITABLE = r"(?s)(?:-e|--editable)(?:\s*=\s*|\s+|(?<=^-e)(?=\S))(.+)$"
_PER_LINE = r"\s+--(?!hash)[a-z-]+(?:[= ]\S+)?"
_LONG = {"-r": "--requirement", "-c": "--constraint", "-e": "--editable", "-i": "--index-url", "-f": "--find-links"}
_SWITCHES = frozenset({"--pre", "--no-index", "--prefer-binary", "--require-hashes", "--use-pep517"})
_WITH_VALUE = frozenset({*_LONG.values(), "--extra-index-url", "--no-binary", "--only-binary"})
_FORMATS = r":all:|:none:|[A-Za-z0-9][A-Za-z0-9._-]*(?:,[A-Za-z0-9][A-Za-z0-9._-]*)*"
#: What a line, and a file of requirements, may be at most; more is not one.
_LONGEST_LINE = 64 * 1024
_LONGEST_FILE = 16 * 1024 * 1024


@dataclass(slots=True)
class _Found:
    requirements: list[Requirement] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    extra_indexes: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    credentials: list[Credential] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Reader:
    """Reads one text; paths in it are looked for in `places`, and may not leave `root` where they are relative."""

    def __init__(self, places: tuple[str, ...], root: str, read: set[str] | None = None) -> None:
        self._places = places
        self._root = root
        self._read: set[str] = set() if read is None else read
        self._found = _Found()

    def read(self, text: str, *, origin: str) -> Wanted:
        for line in logical_lines(text):
            if line.startswith("-"):
                self._option(line)
            else:
                self._add(self._requirement(line, line))
        found = self._found
        return Wanted(
            origin=origin,
            requirements=_once(found.requirements),
            constraints=tuple(found.constraints),
            extra_indexes=tuple(found.extra_indexes),
            find_links=tuple(found.find_links),
            flags=tuple(found.flags),
            credentials=tuple(found.credentials),
            warnings=tuple(found.warnings),
        )

    def _add(self, requirement: Requirement | None) -> None:
        if requirement is not None:
            self._found.requirements.append(requirement)

    def _option(self, line: str) -> None:
        """One line of options. As with pip several may stand in it, each with at most one word as its value."""
        if match := re.match(_EDITABLE, line):
            self._editable(self._without_options(match[1]), line)
            return
        words = _words_of(line)
        while words:
            word = words.pop(0)
            match = re.match(_OPTION, word)
            if match is None:
                raise SetupFailed(f"the requirements have {word!r} in a line of options: {line!r}")
            name, value = _LONG.get(match[1], match[1]), match[2] if match[2] is not None else match[3]
            if value is None and name not in _SWITCHES and words and not words[0].startswith("-"):
                value = words.pop(0)
            self._set(name, value or "", line)

    def _set(self, name: str, value: str, line: str) -> None:
        if name in _WITH_VALUE and (not value or value.startswith("-")):
            raise SetupFailed(f"the option {name} of the requirements has no value: {line!r}")
        match name:
            case "--requirement":
                self._include(value)
            case "--constraint":
                path = self._existing(value)
                self._found.constraints += self._constraints_in(path) if path else self._absent(value)
            case "--extra-index-url" | "--index-url":
                self._found.extra_indexes.append(_place(value, name))
            case "--find-links":
                path = None if "://" in value else self._existing(value)
                self._found.find_links.append(_place(path or value, name))
            case "--no-binary" | "--only-binary":
                if not re.fullmatch(_FORMATS, value):
                    raise SetupFailed(f"the option {name} of the requirements takes names of packages, not {value!r}")
                self._found.flags += [name, value]
            case "--pre":
                self._found.flags.append(name)
            case _:
                self._found.warnings.append(f"requirements: the option {name} is left out, it is not the task's to set")

    def _constraints_in(self, path: str) -> list[str]:
        """A file of constraints holds versions and nothing else: an option in it would be one of the installer's."""
        lines = logical_lines(_text_of(path))
        if any(line.startswith("-") for line in lines):
            self._found.warnings.append(
                f"requirements: options in the constraints {os.path.basename(path)} are left out"
            )
        return [line for line in lines if not line.startswith("-")]

    def _include(self, value: str) -> None:
        path = self._existing(value)
        if path is None:
            self._absent(value)
            return
        if path in self._read:  # once is enough, and files that include each other would never end
            return
        self._read.add(path)
        inner = _Reader((os.path.dirname(path), self._root), self._root, self._read)
        read = inner.read(_text_of(path), origin="")
        self._found.requirements += read.requirements
        self._found.constraints += read.constraints
        self._found.extra_indexes += read.extra_indexes
        self._found.find_links += read.find_links
        self._found.flags += read.flags
        self._found.credentials += read.credentials
        self._found.warnings += read.warnings

    def _editable(self, value: str, line: str) -> None:
        inner = self._requirement(value, line)
        if inner is not None:
            self._add(replace(inner, text=f"--editable {inner.text}", recorded=line, lasting=False))

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
        if not match[3] and not match[2] and self._is_project(text):
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
        """A repository; a password in its URL goes where git finds it and nobody reads it."""
        system, _, address = url.partition("+")
        scheme, separator, rest = address.partition("://")
        who, at, place = rest.partition("@") if "@" in rest.partition("/")[0] else ("", "", rest)
        if at and scheme in ("http", "https"):
            from agent.executor.remotes import parse

            _, credential = parse(f"{scheme}://{who}@{place.partition('/')[0]}/x")
            if credential is not None:
                self._found.credentials.append(credential)
            address = f"{scheme}{separator}{place}"
        _refuse_strange(system, address, recorded)
        name = _name_of(label) or normalised((re.search(r"#egg=([A-Za-z0-9._-]+)", url) or ["", ""])[1])
        return Requirement(
            text=f"{label}{system}+{address}",
            recorded=recorded,
            name=name,
            kind=Kind.VCS,
            lasting=re.search(_COMMIT, address) is not None,
        )

    def _path(self, label: str, text: str, recorded: str) -> Requirement | None:
        plain, marker = _split_marker(text)
        extras = ""
        if (match := re.search(r"\[[^\]/]*\]$", plain)) is not None:
            plain, extras = plain[: match.start()], match[0]
        path = self._existing(_file_path(plain))
        if path is None:
            self._absent(_file_path(plain))
            return None
        where = f"{label}file://{_percent_encoded(path)}" if label else f"{path}{extras}"
        return Requirement(
            text=f"{where}{marker}", recorded=recorded, name=_name_of(label), kind=Kind.PATH, lasting=False
        )

    def _existing(self, value: str) -> str | None:
        value = os.path.expanduser(value)
        if os.path.isabs(value):
            return os.path.normpath(value) if os.path.exists(value) else None
        for place in self._places:
            path = os.path.normpath(os.path.join(place, value))
            if os.path.exists(path) and (path == self._root or path.startswith(self._root + os.sep)):
                return really_inside(self._root, path, what="requirement")
        return None

    def _absent(self, value: str) -> list[str]:
        """Absolute paths are of the machine the task was recorded on; relative ones should be in the repository."""
        if os.path.isabs(os.path.expanduser(value)):
            self._found.warnings.append(f"requirements: {value} is not on this host and is left out")
            return []
        raise SetupFailed(
            f"the requirements name {value!r}, which is not in the task's repository",
            hint="Paths are relative to the requirements file or to the repository. Was it committed?",
        )

    def _is_project(self, text: str) -> bool:
        """A bare word may be a folder of the repository; it is one only where it holds a project."""
        path = self._existing(text)
        return path is not None and any(os.path.isfile(f"{path}/{name}") for name in ("pyproject.toml", "setup.py"))


def logical_lines(text: str) -> list[str]:
    """The lines of a requirements file that say something: continuations joined, comments and blanks gone."""
    return list(_logical(text))


def _logical(text: str) -> Iterator[str]:
    pending = ""
    for raw in text.lstrip("\ufeff").splitlines():
        line = pending + raw
        if len(line) > _LONGEST_LINE:
            raise SetupFailed(f"the requirements have a line of more than {_LONGEST_LINE} characters")
        if line.endswith("\\") and not raw.lstrip().startswith("#"):
            pending = line[:-1]
            continue
        pending = ""
        if line := re.sub(_COMMENT, "", line).strip():
            yield line
    if line := re.sub(_COMMENT, "", pending).strip():
        yield line


def _words_of(line: str) -> list[str]:
    from shlex import split

    try:
        return split(line)
    except ValueError as error:
        raise SetupFailed(f"the options {line!r} of the requirements cannot be split into words ({error})") from error


def _place(value: str, option: str) -> str:
    """A URL or a path that goes to an installer by a file or a variable, where blanks and commas would separate it."""
    if re.search(r"[\s\0]", value) or (option != "--find-links" and not re.match(r"(?:https?|file)://", value)):
        raise SetupFailed(f"the option {option} of the requirements does not name a place: {_hidden(value)!r}")
    return value


def _hidden(url: str) -> str:
    from agent.executor.remotes import hide_userinfo

    return hide_userinfo(url)


def _refuse_strange(system: str, address: str, recorded: str) -> None:
    """A repository is one that a task could have itself: no helper program of git, and no option in its address."""
    from agent.executor.git import refuse_option
    from agent.executor.remotes import parse

    plain = address.partition("#")[0].partition(" ;")[0].strip()
    head, at, reference = plain.rpartition("@")
    if not at or "/" in reference or "/" not in head.partition("://")[2] + head.partition(":")[2]:
        head, reference = plain, ""
    try:
        refuse_option("reference", reference)
        parse(head)
    except SetupFailed as error:
        raise SetupFailed(f"the requirement {_hidden(recorded)!r}: {error.message}", hint=error.hint) from error


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


def _text_of(path: str) -> str:
    if not os.path.isfile(path) or os.path.getsize(path) > _LONGEST_FILE:
        raise SetupFailed(f"the requirements name {os.path.basename(path)!r}, which is not a file of requirements")
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
