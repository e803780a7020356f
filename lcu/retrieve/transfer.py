"""Files: from an address to a verified file of the archive; a broken transfer goes on where it broke.

While a file is fetched it is called ``NAME.TAG.partial``. The tag stands for the content: the check
sum where the catalogue states one, else what the server calls its version of the file. So what is
there is never continued with bytes of another file.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import stat
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from blake3 import blake3
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from lcu.disk import sync, writing
from lcu.retrieve.catalogue import Remote
from lcu.retrieve.web import PassingError, RetrieveError, StoppedError, Web, shown

# Bytes read at once. Larger buffers are fresh pages each time: with 1 MiB the processor worked twice as long.
CHUNK = 1 << 16

# The most that a file may have whose size nobody states; products have 1.2 GB at most.
LARGEST = 8 * 2**30

# Bytes per second below which a connection is given up (over `retrieve.timeout` seconds).
SLOWEST = 1024

# Attempts of a file whose check sum is wrong although all of it arrived.
WRONG = 2

PARTIAL = ".partial"


class _Hash:
    """A check sum in the making; of nothing where the catalogue states none."""

    def __init__(self, algorithm: str) -> None:
        if algorithm == "blake3":
            self._digest: Any = blake3()
        else:
            self._digest = hashlib.new(algorithm) if algorithm else None

    def update(self, content: bytes) -> None:
        if self._digest is not None:
            self._digest.update(content)

    @property
    def hex(self) -> str:
        return "" if self._digest is None else self._digest.hexdigest()


@dataclass
class _Part:
    """What of a file is here; `path` is None while nothing is.

    `furthest` is the most that was here so far: a server without ranges begins anew each time.
    """

    path: Path | None
    size: int
    hash: _Hash
    furthest: int = 0

    def restart(self, path: Path | None, remote: Remote) -> None:
        """Throw away what is here, and go on under another name."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.path, self.size = path, 0
        self.hash = _Hash(remote.checksum[0] if remote.checksum else "")


class Transfers:
    """Fetches files into a folder, from several threads.

    Attributes
    ----------
    received : int
        Bytes that arrived so far, over all files.
    """

    def __init__(self, web: Web, folder: Path) -> None:
        self.received = 0
        self._web, self._folder = web, folder
        self._lock = threading.Lock()
        self._live: set[requests.Response] = set()

    @property
    def stopped(self) -> bool:
        """Whether the program should end."""
        return self._web.stop.is_set()

    def size(self, remote: Remote) -> int | None:
        """Return the bytes of a remote file: as stated, else as the server says, else None."""
        if remote.size is not None:
            return remote.size
        try:
            return self._web.again(self._ask_size, remote)
        except RetrieveError:
            # Some servers know no HEAD; what is wrong with the file shows when it is fetched.
            return None

    def _ask_size(self, remote: Remote) -> int | None:
        with self._web.open("HEAD", remote.href) as response:
            stated = response.headers.get("Content-Length", "")
            return int(stated) if stated.isdigit() else None

    def interrupt(self) -> None:
        """End all transfers at their next bytes."""
        self._web.stop.set()
        with self._lock:
            for response in self._live:
                with suppress(RuntimeError, ValueError, OSError):  # it may be ending by itself
                    response.raw.shutdown()

    def fetch(self, remote: Remote) -> None:
        """Fetch one file, unless it is there; it is whole and verified when it has its name.

        Raises
        ------
        RetrieveError
            Naming the address and why; what came stays, unless it is wrong.
        StoppedError
            When `Web.stop` was set.
        DiskError
            When there is no room.
        """
        target = inside(self._folder, remote.path)
        if is_here(target, remote):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        fault = ""
        for _ in range(WRONG):
            part = _found(remote, target)
            while not self._web.again(self._step, remote, target, part):
                pass
            fault = _fault(part, remote, target)
            if not fault:
                break
            part.restart(None, remote)
        if fault:
            raise RetrieveError(
                f"{shown(remote.href)}: {fault}, {WRONG} times; nothing of it is kept"
            )
        with writing(target):
            sync(part.path)
            os.replace(part.path, target)
            sync(target.parent)

    def _step(self, remote: Remote, target: Path, part: _Part) -> bool:
        """Get ahead with a file; True when all is here. A break after some progress is no fault."""
        if part.size and part.size == remote.size:
            return True
        if remote.local:
            part.restart(_partial(target, "local"), remote)
            with open(remote.href, "rb") as file:
                self._append(iter(lambda: file.read(CHUNK), b""), part, remote.size, remote)
            return True
        headers = {"Range": f"bytes={part.size}-"} if part.size else {}
        with self._web.open("GET", remote.href, accept=(416,), headers=headers) as response:
            total = _agree(response, remote, target, part)
            with self._lock:
                self._live.add(response)
            try:
                self._append(self._body(response, remote), part, total, remote)
            except PassingError:
                if part.size < part.furthest + CHUNK:
                    raise
                return False
            finally:
                part.furthest = max(part.furthest, part.size)
                with self._lock:
                    self._live.discard(response)
        return True

    def _append(
        self, body: Iterator[bytes], part: _Part, total: int | None, remote: Remote
    ) -> None:
        """Append a body to what is here, up to the file's size."""
        limit = LARGEST if total is None else total
        with open(part.path, "ab", buffering=0) as file:
            for content in body:
                if self._web.stop.is_set():
                    raise StoppedError
                if part.size + len(content) > limit:
                    raise RetrieveError(
                        f"{shown(remote.href)}: more than the {limit} bytes that it may have"
                    )
                left = memoryview(content)
                with writing(part.path):
                    while left:
                        left = left[file.write(left) :]
                part.hash.update(content)
                part.size += len(content)
                with self._lock:
                    self.received += len(content)
        if total is not None and part.size < total:
            raise PassingError(f"{shown(remote.href)}: ends after {part.size} of {total} bytes")

    def _body(self, response: requests.Response, remote: Remote) -> Iterator[bytes]:
        """Yield the body of an answer as it comes; give up where it hardly comes."""
        since, received = time.monotonic(), 0
        while True:
            try:
                content = response.raw.read1(CHUNK, decode_content=False)
            except (HTTPError, RequestException, OSError) as error:
                if self._web.stop.is_set():
                    raise StoppedError from None
                raise PassingError(
                    f"{shown(remote.href)}: {type(error).__name__} in the middle"
                ) from None
            if not content:
                if self._web.stop.is_set():  # an interrupted one looks like its end
                    raise StoppedError
                return
            yield content
            received += len(content)
            spent = time.monotonic() - since
            if spent > self._web.timeout:
                if received < SLOWEST * spent:
                    raise PassingError(f"{shown(remote.href)}: less than {SLOWEST} bytes a second")
                since, received = time.monotonic(), 0


def is_here(target: Path, remote: Remote) -> bool:
    """Tell whether a file is here already: its name is given to whole files only, its size must fit."""
    try:
        found = target.stat().st_size
    except FileNotFoundError:
        return False
    return remote.size is None or found == remote.size


def bytes_here(target: Path) -> int:
    """Return the bytes of a file that came in an earlier call and will not be asked for again."""
    return sum(path.stat().st_size for path in _partials(target))


def inside(folder: Path, name: str) -> Path:
    """Return the file of a name in a folder; RetrieveError where it would lie anywhere else."""
    parts = PurePosixPath(name).parts
    target = folder.joinpath(*parts)
    plain = name and "\\" not in name and "\0" not in name and not name.startswith("/")
    if not plain or ".." in parts or not target.resolve().is_relative_to(folder.resolve()):
        raise RetrieveError(f"{name!r}: refused, it would lie outside of {folder}")
    return target


def _partial(target: Path, tag: str) -> Path:
    return target.with_name(f"{target.name}.{tag}{PARTIAL}")


def _partials(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f"{glob.escape(target.name)}.*{PARTIAL}"))


def _tag(*evidence: str | None) -> str:
    return hashlib.sha256(repr(evidence).encode()).hexdigest()[:12]


def _found(remote: Remote, target: Path) -> _Part:
    """Return what an earlier call left of a file; what cannot be of this file goes."""
    part = _Part(None, 0, _Hash(""))
    part.restart(None, remote)
    expected = _partial(target, _tag(*remote.checksum)) if remote.checksum else None
    for path in _partials(target):
        size = path.stat().st_size
        of_another = expected is not None and path != expected
        if of_another or part.path is not None or (remote.size is not None and size > remote.size):
            path.unlink()
            continue
        with open(path, "rb") as file:
            for content in iter(lambda file=file: file.read(CHUNK), b""):
                part.hash.update(content)
        part.path, part.size, part.furthest = path, size, size
    return part


def _agree(response: requests.Response, remote: Remote, target: Path, part: _Part) -> int | None:
    """Bring an answer and what is here together; return the size of the whole file, where known."""
    shown_as = shown(remote.href)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise RetrieveError(f"{shown_as}: comes compressed, which nobody asked for")
    stated = response.headers.get("Content-Length", "")
    total = int(stated) if stated.isdigit() else None
    if response.status_code == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != part.size:
            part.restart(None, remote)
            raise PassingError(f"{shown_as}: another part of the file than was asked for")
        total = None if span[2] == "*" else int(span[2])
    elif response.status_code == 416:
        part.restart(None, remote)
        raise PassingError(f"{shown_as}: has changed, it is shorter than what came before")
    if total is not None and remote.size is not None and total != remote.size:
        raise RetrieveError(f"{shown_as}: has {total} bytes, the catalogue states {remote.size}")
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    tag = _tag(*remote.checksum) if remote.checksum else _tag(version, str(total))
    path = _partial(target, tag)
    if response.status_code != 206:
        part.restart(path, remote)
    elif path != part.path:
        part.restart(None, remote)
        raise PassingError(f"{shown_as}: has changed since it was begun")
    return remote.size if total is None else total


def _fault(part: _Part, remote: Remote, target: Path) -> str:
    """Say what is wrong with a file that came whole; empty where nothing is."""
    if remote.checksum and part.hash.hex != remote.checksum[1]:
        algorithm, expected = remote.checksum
        return f"{algorithm} is {part.hash.hex}, the catalogue states {expected}"
    if target.suffix == ".zip":
        return _fault_of_zip(part.path)
    return ""


def _fault_of_zip(path: Path) -> str:
    """Say what is wrong with the directory of a zip: cut off, names outside of its folder, a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        return f"is no whole zip ({error})"
    for member in members:
        parts = PurePosixPath(member.filename).parts
        link = stat.S_ISLNK(member.external_attr >> 16)
        if not parts or parts[0] == "/" or ".." in parts or "\\" in member.filename or link:
            return f"its member {member.filename!r} is refused: it would lie outside of the product"
    unpacked = sum(member.file_size for member in members)
    return f"would be {unpacked} bytes unpacked" if unpacked > LARGEST else ""


def extract(source: Path, target: Path) -> None:
    """Write the member of a zip that is called like `target`; whole or not at all."""
    fault = _fault_of_zip(source)
    if fault:
        raise RetrieveError(f"{source}: {fault}")
    with zipfile.ZipFile(source) as archive:
        named = [
            member for member in archive.infolist()
            if PurePosixPath(member.filename).name.lower() == target.name.lower()
        ]  # fmt: skip
        if len(named) != 1:
            listed = ", ".join(sorted(archive.namelist())[:8])
            raise RetrieveError(
                f"{source}: {len(named)} members are called {target.name}, expected one; it holds {listed}"
            )
        part = _partial(target, "zip")
        with writing(part), archive.open(named[0]) as packed, open(part, "wb") as file:
            shutil.copyfileobj(packed, file, CHUNK)
        with writing(target):
            sync(part)
            os.replace(part, target)
