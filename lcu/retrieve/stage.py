"""The shell of retrieval: search, choose, show, fetch, record.

One process does it, with a thread for each stream. The first signal to end (Ctrl-C, SIGTERM, SIGUSR1)
stops the streams and leaves what came; the same command goes on there.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from lcu import lock, store
from lcu.acquisition import AcquisitionError, check_whole
from lcu.config import Config, ConfigError
from lcu.disk import DiskError
from lcu.grid import Period
from lcu.ranks import Failure
from lcu.retrieve import credentials
from lcu.retrieve.catalogue import STAGE, Candidate, Catalogue, Remote, open_catalogue, service
from lcu.retrieve.selection import clearest, newest, share_of_count
from lcu.retrieve.transfer import Transfers, bytes_here, extract, inside, is_here
from lcu.retrieve.web import RetrieveError, StoppedError, Web, shown

log = logging.getLogger(__name__)

Report = Callable[[int, int, str], None]
Say = Callable[[str], None]

RECORD = "retrieved.csv"
COLUMNS = ("file", "bytes", "algorithm", "checksum", "retrieved", "address")

# Left free on the disk beside what is fetched, in bytes.
SPARE = 2**30

ADVICE = {
    "sample.old_map": "CORINE needs an account and a click: docs/data.md has the steps",
    "assess.points": "docs/data.md says where LUCAS lies",
}


@dataclass
class Row:
    """What a tile-year needs: a line of the table."""

    tile: str
    year: int
    found: int
    chosen: list[Candidate]


@dataclass
class Work:
    """What is to be fetched, and how far it is."""

    folder: Path
    rows: list[Row]
    failures: list[Failure]
    missing: dict[str, list[Remote]] = field(default_factory=dict)

    @property
    def chosen(self) -> list[Candidate]:
        """All chosen acquisitions."""
        return [one for row in self.rows for one in row.chosen]

    @property
    def bytes_missing(self) -> int:
        """Bytes that are still to come."""
        files = [remote for listed in self.missing.values() for remote in listed]
        here = sum(bytes_here(inside(self.folder, remote.path)) for remote in files)
        return max(sum(remote.size or 0 for remote in files) - here, 0)


def run(config: Config, report: Report, say: Say) -> tuple[list[Failure], str]:
    """Fill the archive; return what failed and a line for the summary.

    Raises
    ------
    ConfigError, RetrieveError, DiskError, StoppedError
        Where nothing can be fetched at all; where there is no room; when the user wants an end.
    """
    folder = _folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        held = lock.take(folder, key="archive.path")
        if held:
            stack.enter_context(held)
        web = stack.enter_context(_stoppable(config))
        _sign_in(config, web)
        extras = _fetch_extras(config, web)
        transfers = Transfers(web, folder)
        work = _look(config, web, transfers)
        for line in _table(work):
            say(line)
        _check_room(work)
        began = time.perf_counter()
        work.failures += extras + _fetch_all(config, work, transfers, report)
        seconds = max(time.perf_counter() - began, 1e-9)
        whole = sum(not work.missing[one.id] for one in work.chosen)
        return work.failures, (
            f"{whole} of {len(work.chosen)} acquisitions in {folder}; {transfers.received / 1e9:.2f} GB fetched, "
            f"{transfers.received / 1e6 / seconds:.0f} MB/s"
        )


def show(config: Config, say: Say) -> list[Failure]:
    """Say what `run` would fetch; nothing is written."""
    folder = _folder(config)
    with _stoppable(config) as web:
        _sign_in(config, web, needed=False)
        work = _look(config, web, Transfers(web, folder))
    for line in _table(work):
        say(line)
    return work.failures


def _folder(config: Config) -> Path:
    """Return the archive's folder."""
    if config.retrieve is None:
        raise ConfigError(
            f"{config.file}: no [retrieve] table; add one to say where acquisitions come from"
        )
    return Path(config.archive.path[0])


@contextlib.contextmanager
def _stoppable(config: Config) -> Iterator[Web]:
    """Give the way to the network, which the first signal to end closes."""
    web = Web(config.retrieve, threading.Event())

    def end(number: int, _: object) -> None:
        web.stop.set()
        signal.signal(number, signal.SIG_DFL)  # the second one ends the program at once

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, end)
    try:
        yield web
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sign_in(config: Config, web: Web, needed: bool = True) -> None:
    """Find the account, and see at once whether it is accepted."""
    if config.retrieve.catalogue == "folder":
        return
    own = service(config)
    if own.token_url and needed:
        secret = credentials.find(config.retrieve.credentials, own.token_url)
        web.account = credentials.Account(web, own.token_url, own.client, own.hosts, secret)
        web.account.header()


# --- what there is, and what of it is wanted ------------------------------------------------------


def _look(config: Config, web: Web, transfers: Transfers) -> Work:
    """Search all tile-years and choose; ask for the sizes that the catalogue does not state."""
    look = open_catalogue(config, web)
    failures: dict[Failure, None] = {}
    rows = [
        _choose(tile, year, periods, look, config, failures)
        for tile in config.archive.tiles
        for year, periods in _by_year(config.periods).items()
    ]
    work = Work(Path(config.archive.path[0]), rows, list(failures))
    with ThreadPoolExecutor(config.retrieve.streams) as pool:
        for row in work.rows:
            row.chosen = list(pool.map(lambda one: _sized(one, transfers), row.chosen))
    for one in work.chosen:
        work.missing[one.id] = [
            remote for remote in one.files if not is_here(inside(work.folder, remote.path), remote)
        ]
    return work


def _by_year(periods: list[Period]) -> dict[int, list[Period]]:
    years: dict[int, list[Period]] = {}
    for period in periods:
        years.setdefault(period.start.year, []).append(period)
    return years


def _choose(
    tile: str,
    year: int,
    periods: list[Period],
    look: Catalogue,
    config: Config,
    failures: dict[Failure, None],
) -> Row:
    """Search one tile-year and choose of it; what is at fault, or not there at all, is named."""
    found: list[Candidate] = []
    first, end = periods[0].start, max(period.end for period in periods)
    for entry in look(tile, first, end):
        if isinstance(entry, Failure):
            failures[entry] = None
        else:
            found.append(entry)
    count = share_of_count(config.retrieve.count, periods)
    chosen = clearest(newest(found), periods, count)
    for one in chosen:
        log.info("%s: chosen, %.1f %% clear", one.id, one.clear)
    if not chosen:
        reason = (
            f"{tile} {year}: the catalogue has no acquisition of at most {config.archive.max_cloud_cover:g} % "
            f"clouds from {first} to {end}"
        )
        failures[Failure(STAGE, f"{tile} {year}", reason)] = None
    return Row(tile, year, len(found), chosen)


def _sized(one: Candidate, transfers: Transfers) -> Candidate:
    files = tuple(replace(remote, size=transfers.size(remote)) for remote in one.files)
    return replace(one, files=files)


def _table(work: Work) -> list[str]:
    """Return the table of what is there and what is to come, with a line for the sum."""
    lines = [
        f"{'tile':<8}{'year':>6}{'found':>8}{'chosen':>8}{'clouds':>9}{'here':>7}{'to fetch':>10}{'files':>8}{'GB':>9}"
    ]
    sums: Counter[str] = Counter()
    for row in work.rows:
        missing = [remote for one in row.chosen for remote in work.missing[one.id]]
        here = sum(not work.missing[one.id] for one in row.chosen)
        clouds = [one.cloud_cover for one in row.chosen if one.cloud_cover is not None]
        mean = f"{sum(clouds) / len(clouds):.0f} %" if clouds else "-"
        size = sum(remote.size or 0 for remote in missing)
        lines.append(
            f"{row.tile:<8}{row.year:>6}{row.found:>8}{len(row.chosen):>8}{mean:>9}{here:>7}"
            f"{len(row.chosen) - here:>10}{len(missing):>8}{size / 1e9:>9.2f}"
        )
        sums.update(
            found=row.found, chosen=len(row.chosen), here=here, files=len(missing), size=size
        )
    lines.append(
        f"{'all':<14}{sums['found']:>8}{sums['chosen']:>8}{'':>9}{sums['here']:>7}"
        f"{sums['chosen'] - sums['here']:>10}{sums['files']:>8}{sums['size'] / 1e9:>9.2f}"
    )
    unknown = sum(remote.size is None for listed in work.missing.values() for remote in listed)
    if unknown:
        lines.append(
            f"{unknown} files of which neither catalogue nor server says the size are not in the sum"
        )
    return lines


def _check_room(work: Work) -> None:
    """Raise DiskError where the disk has no room for what is to come."""
    disk = os.statvfs(work.folder)
    free, needed = disk.f_bavail * disk.f_frsize, work.bytes_missing
    if needed and needed + SPARE > free:
        raise DiskError(
            f"archive.path: {work.folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are to come (and "
            f"{SPARE / 1e9:.0f} GB should stay free); make room, or fetch less: fewer tiles or years, a smaller "
            "retrieve.count"
        )
    files = sum(map(len, work.missing.values())) + sum(bool(one.item) for one in work.chosen)
    if disk.f_files and disk.f_favail < files:
        raise DiskError(
            f"archive.path: {work.folder} has room for {disk.f_favail} files, {files} are to come; "
            'archive.kind = "safe" takes one file an acquisition'
        )


# --- fetching -------------------------------------------------------------------------------------


def _fetch_all(config: Config, work: Work, transfers: Transfers, report: Report) -> list[Failure]:
    """Fetch what is missing, several files at once; an acquisition whose files are all here gets its item.

    A file that fails costs its acquisition alone; a full disk, or the user, ends all.
    """
    owner = {remote: one for one in work.chosen for remote in work.missing[one.id]}
    total, failures = work.bytes_missing, []
    for one in work.chosen:
        whole = one.item and not work.missing[one.id]
        if whole and not inside(work.folder, one.item_path).exists():
            failures += _finish(one, work)
    pool = ThreadPoolExecutor(config.retrieve.streams)
    begun = time.monotonic()
    try:
        running: dict[Future[None], Remote] = {
            pool.submit(transfers.fetch, remote): remote for remote in owner
        }
        left = set(running)
        while left:
            done, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
            if transfers.stopped:
                raise StoppedError
            for future in done:
                failures += _settle(future, running[future], owner[running[future]], work)
            rate = transfers.received / 1e6 / max(time.monotonic() - begun, 1e-9)
            if transfers.received:
                report(
                    min(transfers.received, total) // 10**6 or 1,
                    total // 10**6 or 1,
                    f"MB, {len(owner) - len(left)} of {len(owner)} files, {rate:.0f} MB/s",
                )
    except BaseException:
        transfers.interrupt()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def _settle(future: Future[None], remote: Remote, one: Candidate, work: Work) -> list[Failure]:
    """Record a file that came, and finish its acquisition where it was the last one; name one that did not."""
    try:
        future.result()
    except RetrieveError as error:
        log.error("%s: %s", one.id, error)
        return [Failure(STAGE, one.id, str(error))]
    log.info("%s: %s is here", one.id, remote.path)
    _record(work.folder, remote)
    work.missing[one.id].remove(remote)
    return _finish(one, work) if one.item and not work.missing[one.id] else []


def _finish(one: Candidate, work: Work) -> list[Failure]:
    """Write the item of an acquisition whose files are all here; what is no whole raster goes again."""
    for remote in one.files:
        target = inside(work.folder, remote.path)
        try:
            check_whole(str(target))
        except AcquisitionError as error:
            target.unlink()
            work.missing[one.id].append(remote)
            return [Failure(STAGE, one.id, f"{shown(remote.href)}: {error}")]
    store.write_json(inside(work.folder, one.item_path), one.item)
    return []


def _record(folder: Path, remote: Remote) -> None:
    """Add a line for a file to the archive's record."""
    path = folder / RECORD
    new = not path.exists()
    target = inside(folder, remote.path)
    algorithm, digest = remote.checksum or ("", "")
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow([
            remote.path, target.stat().st_size, algorithm, digest,
            datetime.now(UTC).isoformat(timespec="seconds"), shown(remote.href),
        ])  # fmt: skip


# --- old map and points ---------------------------------------------------------------------------


def _fetch_extras(config: Config, web: Web) -> list[Failure]:
    """Bring the old map and the points where the configuration says from where and they are missing."""
    wanted = [
        ("sample.old_map", config.retrieve.old_map, config.sample.old_map),
        ("assess.points", config.retrieve.points, config.assess.points),
    ]
    failures = []
    for key, source, name in wanted:
        if not source or not name or Path(name).exists():
            continue
        try:
            _fetch_extra(source, Path(name), web)
        except (RetrieveError, OSError) as error:
            failures.append(Failure(STAGE, key, f"{key}: {error}; {ADVICE[key]}"))
    return failures


def _fetch_extra(source: str, target: Path, web: Web) -> None:
    """Make one file from an address or a file; of a zip that is not wanted as one, its member."""
    target.parent.mkdir(parents=True, exist_ok=True)
    local = "://" not in source
    if local and not Path(source).is_file():
        raise RetrieveError(f"no such file {source}")
    packed = shown(source).lower().endswith(".zip") and target.suffix.lower() != ".zip"
    if packed and local:
        extract(Path(source), target)
        return
    name = f"{target.name}.zip" if packed else target.name
    transfers = Transfers(web, target.parent)
    remote = Remote(source, name, local=local)
    transfers.fetch(
        replace(remote, size=os.stat(source).st_size if local else transfers.size(remote))
    )
    if packed:
        extract(target.parent / name, target)
        (target.parent / name).unlink()
