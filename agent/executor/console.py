"""The console of a run on disk: numbered segment files of records, written here and read by whoever ships them.

A record is one line, `<epoch ms> TAB <kind> TAB <text>`: kind `o` is the task's output; `i`, `w` and `e` are notices
of ours. Records are only ever appended, whole, by one `write`, so that a reader may trust everything up to the last
line feed. When the disk is full nothing is dropped: what could not be written waits, and while something waits the
pump does not read, so that in the end the task itself waits. That is what a full disk means to any program.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Sequence

OUTPUT, INFO, WARNING, ERROR = "o", "i", "w", "e"
SEGMENT_BYTES = 8 * 1024 * 1024
_LINE_BREAKS = str.maketrans({"\r": " ", "\n": " "})
#: `user:password@` in any URL, and what stands alone before the `@` of a web address (it may be a token).
_IN_URL = r"(?<=://)[^/@\s:]*:[^/@\s]*(?=@)|(?<=http://)[^/@\s]+(?=@)|(?<=https://)[^/@\s]+(?=@)"
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


class Console:
    """Appends records to `<run>/console/NNNNNN.log`, beginning after the highest number that is there."""

    def __init__(
        self,
        folder: str,
        *,
        redact: Callable[[str], str] = lambda text: text,
        clock: Callable[[], float] = time.time,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._folder = folder
        self._redact = redact
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._waiting = b""
        self._fd = -1
        os.makedirs(folder, mode=0o700, exist_ok=True)
        taken = [int(name[:-4]) for name in os.listdir(folder) if name.endswith(".log") and name[:-4].isdigit()]
        self._number = max(taken, default=0)
        self._roll()

    def info(self, text: str) -> None:
        """A notice for the people who read the task's console."""
        self._notice(INFO, text)

    def warning(self, text: str) -> None:
        """A notice that something is not as it was asked for."""
        self._notice(WARNING, text)

    def error(self, text: str) -> None:
        """A notice that the task cannot go on."""
        self._notice(ERROR, text)

    def output(self, lines: Sequence[str]) -> None:
        """Lines of the task, stamped with now."""
        if lines:
            self._append(OUTPUT, "\n".join(lines))

    @property
    def is_blocked(self) -> bool:
        """Whether something waits for space on the disk."""
        return bool(self._waiting)

    def retry(self) -> None:
        """Try again to write what waits."""
        self._write(b"")

    def close(self) -> None:
        """No more records."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _notice(self, kind: str, text: str) -> None:
        lines = self._redact(text).replace("\r\n", "\n").split("\n")
        self._append(kind, "\n".join(line.translate(_LINE_BREAKS) for line in lines))

    def _append(self, kind: str, text: str) -> None:
        stamp = f"{int(self._clock() * 1000)}\t{kind}\t"
        records = stamp + text.replace("\n", "\n" + stamp) + "\n"
        self._write(records.encode("utf-8", "replace"))

    def _write(self, data: bytes) -> None:
        data = self._waiting + data
        if data and not self._waiting and self._size >= self._segment_bytes:
            self._roll()
        try:
            while data:
                written = os.write(self._fd, data)
                self._size += written
                data = data[written:]
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
        self._waiting = data

    def _roll(self) -> None:
        self.close()
        self._number += 1
        path = f"{self._folder}/{self._number:06d}.log"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._fd).st_size


def redactor(secrets: Sequence[str]) -> Callable[[str], str]:
    """A function that hides these values, plain or percent-encoded, and every password that is part of a URL."""
    hidden = _spellings(secrets)

    def redact(text: str) -> str:
        for secret in hidden:
            if secret in text:
                text = text.replace(secret, "****")
        return re.sub(_IN_URL, "****", text) if "://" in text else text

    return redact


def _spellings(secrets: Sequence[str]) -> tuple[str, ...]:
    plain = [secret for secret in secrets if secret]
    if not all(secret.isalnum() for secret in plain):
        from urllib.parse import quote, quote_plus

        plain += [spelling for secret in plain for spelling in (quote(secret, safe=""), quote_plus(secret))]
    return tuple(sorted(dict.fromkeys(plain), key=len, reverse=True))
