"""Turning the bytes a task writes into the lines a terminal would leave on the screen.

Pure: bytes and times go in, texts come out. The rule that everything here serves is that the result depends on what
was written and never on how the pipe happened to cut it, so decoding and folding only ever see whole lines (or, for
a line beyond `LONGEST`, pieces cut at a place that the bytes alone decide).

A carriage return takes the cursor back: of the parts of a line the last non-empty one remains, and CRLF is a plain
line end. A progress bar is one such line that grows for hours; what it shows is recorded every few seconds.
"""

from __future__ import annotations

#: A line without an end is cut after this many bytes, so that a task that never ends its line costs bounded memory.
LONGEST = 256 * 1024


class Folder:
    """The state between two reads. With `fold_returns=False` every update of a progress bar is a line of its own."""

    def __init__(self, *, progress_seconds: float = 5.0, fold_returns: bool = True, longest: int = LONGEST) -> None:
        self._progress_seconds = progress_seconds
        self._fold_returns = fold_returns
        self._longest = longest
        self._held = b""  # without folding: a return at the end of a read, which a line feed may yet follow
        self._since: float | None = None  # when the unfinished line began, or was last recorded
        self._shown: str | None = None  # what was last recorded of it
        self._start()

    def feed(self, data: bytes, now: float) -> list[str]:
        """The lines that `data` completes. Costs one pass over it where no line is long and none has a return."""
        if not self._fold_returns:
            data = self._separate(data)
        head, newline, rest = data.rpartition(b"\n")
        lines: list[str] = []
        if newline:
            lines = self._plain(head) if self._is_plain(head) else self._folded(head)
            self._start()
        if rest:
            if self._since is None:
                self._since = now
            lines += self._extend(rest)
        return lines

    def progress(self, now: float, *, settled: bool = True) -> list[str]:
        """What an unfinished line with returns shows, where it is time to record it again.

        `settled`: nothing was written for a moment, so its last part is whole; else the last one known to be whole
        is taken, which is the one before the last return.
        """
        if not self._returned or self._since is None or now - self._since < self._progress_seconds:
            return []
        text = _decode(self._visible() if settled else self._whole)
        if not text or text == self._shown:
            return []
        self._since, self._shown = now, text
        return [text]

    def due(self, now: float) -> float | None:
        """Seconds until `progress` may have something to say; None while there is no line it could say it of."""
        if not self._returned or self._since is None:
            return None
        return max(0.0, self._since + self._progress_seconds - now)

    def close(self) -> list[str]:
        """The rest, once nothing more will be written: a last line that was never ended."""
        text, shown = _decode(self._visible()), self._shown
        self._start()
        return [text] if text and text != shown else []

    def _start(self) -> None:
        self._open = b""  # the last part of the unfinished line
        self._whole = b""  # its last part that a return has ended
        self._returned = False
        self._since = None
        self._shown = None

    def _is_plain(self, head: bytes) -> bool:
        first = head.find(b"\n")
        longest = max(len(head), len(self._open) + (len(head) if first < 0 else first))
        return not self._returned and longest <= self._longest and b"\r" not in head

    def _plain(self, head: bytes) -> list[str]:
        return _decode(self._open + head).split("\n")

    def _folded(self, head: bytes) -> list[str]:
        first, *others = head.split(b"\n")
        lines = self._finish(first)
        for line in others:
            self._start()
            lines += self._finish(line)
        return lines

    def _finish(self, last: bytes) -> list[str]:
        lines = self._extend(last)
        text = _decode(self._visible())
        if text == self._shown or (not text and self._returned and not self._fold_returns):
            return lines
        return [*lines, text]

    def _visible(self) -> bytes:
        return self._open.removesuffix(b"\r")

    def _extend(self, data: bytes) -> list[str]:
        """Add to the unfinished line what holds no line feed; answers the pieces of it that had grown too long.

        Of the line only its last non-empty part is kept, with one return behind it if one came after it.
        """
        pieces: list[str] = []
        *whole, last = (self._open + data).split(b"\r")
        self._returned = self._returned or bool(whole)
        for part in whole:
            if part:
                self._whole = self._cut(part, pieces)
        last = self._cut(last, pieces)
        self._open = last if last or not self._whole else self._whole + b"\r"
        return pieces

    def _cut(self, part: bytes, pieces: list[str]) -> bytes:
        while len(part) > self._longest:
            cut = _boundary(part, self._longest)
            pieces.append(_decode(part[:cut]))
            part = part[cut:]
        return part

    def _separate(self, data: bytes) -> bytes:
        """Without folding: make every return a line end, except before a line feed."""
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        return data.removesuffix(self._held).replace(b"\r\n", b"\n").replace(b"\r", b"\r\n")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _boundary(data: bytes, position: int) -> int:
    """The last place at or before `position` that does not lie inside a UTF-8 character."""
    for cut in range(position, max(position - 4, 0), -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return position
