"""Downloads a file and checks it; an interrupted download can be resumed.

`NAME.part` holds the bytes received so far, `NAME.part.json` the provenance. Only a part of the right length and sha256
is renamed to NAME.
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
from edgespec.hub.web import Endpoint, Response, TransientDownloadError, content_length, content_range, open_url
from edgespec.system import cpu
from edgespec.system.files import ByteProgress, locked, read_json, sha256_of, write_json

_log = logging.getLogger("edgespec.hub")

RETRY_PAUSES = (1.0, 2.0, 4.0)
"""Seconds between attempts."""
_PROGRESS_BYTES = 8 << 20
"""Bytes received in an attempt from which on it does not count as failed."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a file comes from, and its sha256 and size in bytes where these are known."""

    url: str
    sha256: str | None = None
    size: int | None = None


def part_path(target: Path) -> Path:
    """The path of the incomplete file."""
    return target.with_name(f"{target.name}.part")


def part_note_path(target: Path) -> Path:
    """The path of the provenance of the incomplete file."""
    return target.with_name(f"{target.name}.part.json")


def fetch(
    source: Provenance,
    target: Path,
    host: Endpoint,
    *,
    timeout: float = 60.0,
    pauses: Sequence[float] = RETRY_PAUSES,
    progress: ByteProgress | None = None,
) -> Provenance:
    """Download `source` to `target`, resuming an earlier attempt; returns the source with sha256 and size.

    An attempt fails when the server sends nothing for `timeout` seconds; the next one follows after one of the `pauses`
    (seconds). Raises DownloadError, OutputError.
    """
    with _locked_part(part_path(target)) as file:
        transfer = _Transfer(source, target, host, file, timeout, progress)
        transfer.complete(pauses)
        sha256 = sha256_of(part_path(target), progress)
        if sha256 != transfer.source.sha256:
            discard(target)
            raise DownloadError(
                f"{target.name} came with sha256 {sha256} instead of {transfer.source.sha256}, so it was removed; pull "
                "it again, and if this happens again, its server has another file"
            )
        os.fsync(file.fileno())
        part_path(target).replace(target)
        part_note_path(target).unlink(missing_ok=True)
    return transfer.source


def discard(target: Path) -> None:
    """Remove an incomplete download of `target`."""
    part_path(target).unlink(missing_ok=True)
    part_note_path(target).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked_part(part: Path) -> Iterator[BinaryIO]:
    """The incomplete file, locked and open for writing. It is removed where it stays empty."""
    try:
        cpu.made_folder(part.parent)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        reason = "it is a link, remove it" if error.errno == errno.ELOOP else error.strerror
        raise OutputError(f"{part}: cannot be written: {reason}") from error
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
    """One download: the provenance as known so far, and the number of bytes received."""

    def __init__(
        self,
        source: Provenance,
        target: Path,
        host: Endpoint,
        file: BinaryIO,
        timeout: float,
        progress: ByteProgress | None,
    ) -> None:
        self.source = self._given = source
        self._etag: str | None = None
        self._target = target
        self._host = host
        self._file = file
        self._timeout = timeout
        self._progress = progress
        self._received = os.fstat(file.fileno()).st_size
        self._resume()

    def complete(self, pauses: Sequence[float]) -> None:
        """Repeat requests until the file is complete. Raises DownloadError with the last failure."""
        pauses_left = list(pauses)
        while not self._is_complete():
            before = self._received
            try:
                self._request()
            except TransientDownloadError as error:
                if self._received - before >= _PROGRESS_BYTES:
                    pauses_left = list(pauses)
                if not pauses_left:
                    raise DownloadError(f"{error}{self._resume_hint()}") from error
                time.sleep(pauses_left.pop(0))

    def _is_complete(self) -> bool:
        return self.source.sha256 is not None and self._received == self.source.size

    def _request(self) -> None:
        headers = {}
        if self._received:
            headers["Range"] = f"bytes={self._received}-"
            if self._etag is not None:
                headers["If-Range"] = self._etag
        try:
            with open_url(self.source.url, self._host, headers, self._timeout) as response:
                self._receive_response(response)
        except TransientDownloadError as error:
            if error.code == 416:  # the part is not a prefix of the server's file
                self._restart()
            raise

    def _receive_response(self, response: Response) -> None:
        total = content_length(response.headers)
        if response.status == 206:
            span = content_range(response.headers)
            if span is None or span[0] != self._received:
                self._restart()
                raise TransientDownloadError(
                    f"{self.source.url}: the server answers with another part than it was asked for"
                )
            total = span[1]
        self._check_against(response.sha256, response.size)
        self._check_against(None, total)
        if response.status != 206 and self._received:  # a server that does not support ranges
            self._restart()
        if self.source.size is None or self.source.sha256 is None:
            missing = "length" if self.source.size is None else "sha256"
            raise DownloadError(
                f"{self.source.url}: the server does not tell the file's {missing}, and it is not in the catalogue: "
                "it could not be checked, so nothing was downloaded"
            )
        self._write_note(response)
        self._receive(response.pieces, self.source.size)

    def _check_against(self, sha256: str | None, size: int | None) -> None:
        """Check the server's sha256 and size against the known ones, and add them where they were not known.

        Where only the server had given the sha256 and it changes, the download restarts. Another size alone keeps the
        part: it may be the login page of a network.
        """
        known = self.source
        if sha256 not in {None, known.sha256} and known.sha256 is not None:
            complaint = f"sha256 {sha256} instead of {known.sha256}"
            if self._given.sha256 is None:
                self._restart()
                self.source = self._given
        elif size not in {None, known.size} and known.size is not None:
            complaint = f"{size} bytes instead of {known.size}"
        else:
            self.source = replace(known, sha256=known.sha256 or sha256, size=known.size or size)
            return
        complaint = f"{known.url}: the server has another file than expected: {complaint}"
        if self._given.sha256 is None:
            raise TransientDownloadError(complaint)
        raise DownloadError(f"{complaint}; nothing of it was kept. A newer edgespec may know the new file")

    def _receive(self, pieces: Iterator[bytes], size: int) -> None:
        free = shutil.disk_usage(self._target.parent).free
        if free < size - self._received:
            raise OutputError(
                f"{self._target.parent}: {(size - self._received) / 1e6:.0f} MB are missing and {free / 1e6:.0f} MB "
                "are free: make room, or set EDGESPEC_MODELS to another folder"
            )
        self._file.seek(self._received)
        for piece in pieces:
            if self._received + len(piece) > size:
                self._restart()
                raise DownloadError(f"{self.source.url}: the server sends more than the {size} bytes there should be")
            self._write(piece)
            if self._progress is not None:
                self._progress("downloading", self._received, size)
        if self._received < size:
            raise TransientDownloadError(
                f"{self.source.url}: the connection ended after {self._received} of {size} bytes"
            )

    def _write(self, piece: bytes) -> None:
        try:
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise OutputError(
                f"{part_path(self._target)}: cannot be written: {error.strerror}{self._resume_hint()}"
            ) from error
        self._received += len(piece)

    def _restart(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._received, self._etag = 0, None

    def _resume_hint(self) -> str:
        return "; what came so far is kept, the same command goes on from there" if self._received else ""

    def _write_note(self, response: Response) -> None:
        """Write the provenance of the part, for a later process; the ETag only where it is a strong one."""
        etag = response.headers.get("ETag", "")
        self._etag = etag if etag.startswith('"') else None
        try:
            write_json(part_note_path(self._target), {**asdict(self.source), "etag": self._etag})
        except OSError as error:
            raise OutputError(f"{part_note_path(self._target)}: cannot be written: {error.strerror}") from error

    def _resume(self) -> None:
        """Resume the part where its provenance shows that it is of this file; else restart."""
        note: Any = read_json(part_note_path(self._target)) if self._received else None
        try:
            before = Provenance(note["url"], note["sha256"], int(note["size"]))
            etag = note["etag"]
        except (KeyError, TypeError, ValueError):
            self._restart()
            return
        wanted = self.source
        same = before.url == wanted.url and (wanted.sha256, wanted.size) in {
            (before.sha256, before.size), (None, None), (before.sha256, None),
        }  # fmt: skip
        if not same or self._received > (before.size or 0):
            self._restart()
            return
        self.source, self._etag = before, etag if isinstance(etag, str) else None
