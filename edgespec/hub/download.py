"""A file from a server, whole and checked, or a part of it to go on from.

`NAME.part` holds what came so far and `NAME.part.json` of which file it is. Only a part of the right length and sha256
becomes NAME, in one step.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from edgespec.errors import DownloadError, OutputError
from edgespec.hub.web import Broken, Endpoint, Response, content_length, content_range, opened
from edgespec.system import cpu as machine
from edgespec.system.files import ByteProgress, locked, read_json, sha256_of, write_json

_log = logging.getLogger("edgespec.hub")

PAUSES = (1.0, 2.0, 4.0)
"""Seconds between tries."""
_WORTH = 8 << 20
"""Bytes: a connection that brought as many before it broke does not count as a failed try."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """A file on a server, and what it must be, as far as that is known before it is there."""

    url: str
    sha256: str | None = None
    size: int | None = None


def part_of(target: Path) -> Path:
    """Where a file is while it is not whole."""
    return target.with_name(f"{target.name}.part")


def note_of(target: Path) -> Path:
    """Where it is written down what the part is a part of."""
    return target.with_name(f"{target.name}.part.json")


def fetch(
    source: Provenance,
    target: Path,
    host: Endpoint,
    *,
    timeout: float = 60.0,
    pauses: Sequence[float] = PAUSES,
    progress: ByteProgress | None = None,
) -> Provenance:
    """Put the file that `source` describes at `target`, going on with what an earlier try left. The source, complete.

    A server that falls silent for `timeout` seconds has failed; after a failure there is another try, after one of the
    `pauses` (seconds) each. Raises DownloadError, OutputError.
    """
    with _claimed(part_of(target)) as file:
        transfer = _Transfer(source, target, host, file, timeout, progress)
        transfer.complete(pauses)
        found = sha256_of(part_of(target), progress)
        if found != transfer.source.sha256:
            discard(target)
            raise DownloadError(
                f"{target.name} came with sha256 {found} instead of {transfer.source.sha256}, so it was removed; pull "
                "it again, and if this happens again, its server has another file"
            )
        os.fsync(file.fileno())
        part_of(target).replace(target)
        note_of(target).unlink(missing_ok=True)
    return transfer.source


def discard(target: Path) -> None:
    """Remove what an unfinished download left."""
    part_of(target).unlink(missing_ok=True)
    note_of(target).unlink(missing_ok=True)


@contextlib.contextmanager
def _claimed(part: Path) -> Iterator[BinaryIO]:
    """The part, open to be written to by nobody else. It is not left behind empty."""
    try:
        machine.made(part.parent)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        why = "it is a link, remove it" if error.errno == errno.ELOOP else error.strerror
        raise OutputError(f"{part}: cannot be written: {why}") from error
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        if not locked(descriptor, part):
            raise DownloadError(f"{part}: another process is downloading it; wait for that one")
        if not part.exists() or not os.path.samestat(part.stat(), os.fstat(descriptor)):
            raise DownloadError(f"{part}: another process has just finished with it; try again")
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):
                if part.stat().st_size == 0:
                    part.unlink()
                    part.with_name(f"{part.name}.json").unlink(missing_ok=True)


class _Transfer:
    """What is known of a file, and how much of it is there; both grow with every request."""

    def __init__(
        self,
        source: Provenance,
        target: Path,
        host: Endpoint,
        file: BinaryIO,
        timeout: float,
        progress: ByteProgress | None,
    ) -> None:
        self.source = self._wanted = source
        self._etag: str | None = None
        self._target = target
        self._host = host
        self._file = file
        self._timeout = timeout
        self._progress = progress
        self._have = os.fstat(file.fileno()).st_size
        self._recall()

    def complete(self, pauses: Sequence[float]) -> None:
        """Ask until everything is there. Raises DownloadError with the last failure when it cannot be had."""
        left = list(pauses)
        while not self._is_complete():
            before = self._have
            try:
                self._once()
            except Broken as error:
                if self._have - before >= _WORTH:
                    left = list(pauses)
                if not left:
                    raise DownloadError(f"{error}{self._kept()}") from error
                time.sleep(left.pop(0))

    def _is_complete(self) -> bool:
        return self.source.sha256 is not None and self._have == self.source.size

    def _once(self) -> None:
        headers = {}
        if self._have:
            headers["Range"] = f"bytes={self._have}-"
            if self._etag is not None:
                headers["If-Range"] = self._etag
        try:
            with opened(self.source.url, self._host, headers, self._timeout) as answer:
                self._take(answer)
        except Broken as error:
            if error.code == 416:  # what we have is not a beginning of what the server has
                self._begin_anew()
            raise

    def _take(self, answer: Response) -> None:
        total = content_length(answer.headers)
        if answer.status == 206:
            span = content_range(answer.headers)
            if span is None or span[0] != self._have:
                self._begin_anew()
                raise Broken(f"{self.source.url}: the server answers with another part than it was asked for")
            total = span[1]
        self._agree(answer.sha256, answer.size)
        self._agree(None, total)
        if answer.status != 206 and self._have:  # a server that cannot go on in the middle
            self._begin_anew()
        if self.source.size is None or self.source.sha256 is None:
            missing = "length" if self.source.size is None else "sha256"
            raise DownloadError(
                f"{self.source.url}: the server does not tell the file's {missing}, and it is not in the catalogue: "
                "it could not be checked, so nothing was downloaded"
            )
        self._note(answer)
        self._receive(answer.pieces, self.source.size)

    def _agree(self, sha256: str | None, size: int | None) -> None:
        """What the server says must be what is known. What only the server said before may change: then begin anew.

        Another length alone takes nothing away: a hotel's login page is no reason to lose what there is.
        """
        known = self.source
        if sha256 not in {None, known.sha256} and known.sha256 is not None:
            complaint = f"sha256 {sha256} instead of {known.sha256}"
            if self._wanted.sha256 is None:
                self._begin_anew()
                self.source = self._wanted
        elif size not in {None, known.size} and known.size is not None:
            complaint = f"{size} bytes instead of {known.size}"
        else:
            self.source = replace(known, sha256=known.sha256 or sha256, size=known.size or size)
            return
        complaint = f"{known.url}: the server has another file than expected: {complaint}"
        if self._wanted.sha256 is None:
            raise Broken(complaint)
        raise DownloadError(f"{complaint}; nothing of it was kept. A newer edgespec may know the new file")

    def _receive(self, pieces: Iterator[bytes], size: int) -> None:
        room = shutil.disk_usage(self._target.parent).free
        if room < size - self._have:
            raise OutputError(
                f"{self._target.parent}: {(size - self._have) / 1e6:.0f} MB are missing and {room / 1e6:.0f} MB are "
                "free: make room, or set EDGESPEC_MODELS to another folder"
            )
        self._file.seek(self._have)
        for piece in pieces:
            if self._have + len(piece) > size:
                self._begin_anew()
                raise DownloadError(f"{self.source.url}: the server sends more than the {size} bytes there should be")
            self._write(piece)
            if self._progress is not None:
                self._progress("downloading", self._have, size)
        if self._have < size:
            raise Broken(f"{self.source.url}: the connection ended after {self._have} of {size} bytes")

    def _write(self, piece: bytes) -> None:
        try:
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise OutputError(f"{part_of(self._target)}: cannot be written: {error.strerror}{self._kept()}") from error
        self._have += len(piece)

    def _begin_anew(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._have, self._etag = 0, None

    def _kept(self) -> str:
        return "; what came so far is kept, the same command goes on from there" if self._have else ""

    def _note(self, answer: Response) -> None:
        """Write down what the part is of, for a later process; an ETag only where it stands for the very bytes."""
        etag = answer.headers.get("ETag", "")
        self._etag = etag if etag.startswith('"') else None
        try:
            write_json(note_of(self._target), {**asdict(self.source), "etag": self._etag})
        except OSError as error:
            raise OutputError(f"{note_of(self._target)}: cannot be written: {error.strerror}") from error

    def _recall(self) -> None:
        """Go on with what there is, if it is known to be a part of this very file; else begin anew."""
        noted: Any = read_json(note_of(self._target)) if self._have else None
        try:
            before = Provenance(noted["url"], noted["sha256"], int(noted["size"]))
            etag = noted["etag"]
        except (KeyError, TypeError, ValueError):
            self._begin_anew()
            return
        wanted = self.source
        same = before.url == wanted.url and (wanted.sha256, wanted.size) in {
            (before.sha256, before.size), (None, None), (before.sha256, None),
        }  # fmt: skip
        if not same or self._have > (before.size or 0):
            self._begin_anew()
            return
        self.source, self._etag = before, etag if isinstance(etag, str) else None
