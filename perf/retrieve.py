"""Measure the download of products against curl, from a server on loopback with a limited rate.

    python perf/retrieve.py --files 16 --megabytes 128 --rate 100

The server (that of the tests, in a process of its own) serves zips of random bytes at so many MB/s over
all connections. In turns they are fetched by `lcu retrieve` (the whole command: its start, the search,
the token, MD5 or BLAKE3, fsync, the record) and by `curl --parallel` with as many streams, with and
without `md5sum` after it. All files are compared with those served before a row is written.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import record

sys.path.insert(0, str(record.ROOT))  # the server is the tests'

from lcu.acquisition import Acquisition, Found  # noqa: E402
from tests.catalogue_server import PASSWORD, USER, Server, multihash  # noqa: E402

TABLE = record.ROOT / "perf" / "results" / "retrieve.csv"
COLUMNS = (
    "date", "commit", "host", "cpu", "files", "megabytes", "rate", "streams", "implementation", "rounds",
    "seconds_median", "seconds_least", "seconds_most", "megabytes_per_second", "share_of_curl",
    "cpu_seconds_per_gigabyte",
)  # fmt: skip
BEGIN, END = "<!-- retrieve: written by perf/retrieve.py -->\n", "<!-- end of retrieve -->"
STREAMS = 4
LIMIT = 1200  # seconds for one program

CONFIG = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "archive"
years = [2018]
tiles = ["32TPS"]
[sample]
old_map = "old_map.tif"
old_map_year = 2018
[retrieve]
url = "{url}/stac/"
token_url = "{url}/token"
hosts = ["{host}"]
count = {count}
streams = {streams}
"""


def serve(pipe: Connection, count: int, megabytes: int, rate: float) -> None:
    """Serve zips of random bytes, with MD5 until told to state BLAKE3; send address, paths and digest."""
    generator = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        zipped = Path(folder) / "product.zip"
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("product.SAFE/filling.bin", generator.bytes(megabytes * 10**6))
        content = zipped.read_bytes()
        for number in range(count):
            time_ = datetime(2018, 1 + number % 12, 1 + number // 12, 10, tzinfo=UTC)
            own = Acquisition(
                f"p{number}", "32TPS", time_, "sentinel-2a", "L2A", "05.00", 10.0, {}, None, ""
            )
            path = f"/odata/{number}"
            server.files[path] = content
            asset = {
                "href": server.url + path,
                "type": "application/zip",
                "file:size": len(content),
            }
            server.add_item(
                own.id, {"Product": asset}, Found(own, f"GS2A_{time_:%Y%m%dT%H%M%S}", 0.0, "")
            )
        server.rate = rate * 10**6
        pipe.send((server.url, server.host, sorted(server.files), hashlib.md5(content).hexdigest()))
        while algorithm := pipe.recv():
            checksum = multihash(content, algorithm)
            for item in server.items:
                item["assets"]["Product"]["file:checksum"] = checksum
            pipe.send(algorithm)


def timed(command: list[str], folder: Path, **more: str) -> tuple[float, float]:
    """Run a program; return its seconds and processor seconds."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command, cwd=folder, env=os.environ | more, check=True, stdout=subprocess.DEVNULL, timeout=LIMIT
    )  # fmt: skip
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_lcu(folder: Path, url: str, host: str, paths: list[str]) -> tuple[float, float]:
    """Fetch with lcu."""
    (folder / "old_map.tif").touch()
    text = CONFIG.format(url=url, host=host, count=len(paths), streams=STREAMS)
    (folder / "run.toml").write_text(text)
    return timed(
        [sys.executable, "-m", "lcu.main", "retrieve", "run.toml"], folder,
        LCU_USERNAME=USER, LCU_PASSWORD=PASSWORD, PYTHONPATH=str(record.ROOT),
    )  # fmt: skip


def run_curl(folder: Path, url: str, paths: list[str]) -> tuple[float, float]:
    """Fetch with curl."""
    files = [
        word for number, path in enumerate(paths) for word in ("-o", f"{number}.zip", url + path)
    ]
    return timed(
        [
            "curl",
            "-sS",
            "--no-progress-meter",
            "--fail",
            "--parallel",
            "--parallel-max",
            str(STREAMS),
            *files,
        ],
        folder,
    )


def check(folder: Path, count: int, digest: str) -> None:
    """Compare what came with what was served."""
    found = sorted(folder.rglob("*.zip"))
    wrong = [path for path in found if hashlib.md5(path.read_bytes()).hexdigest() != digest]
    if len(found) != count or wrong:
        raise SystemExit(
            f"{len(found)} of {count} files, {len(wrong)} of them wrong: nothing is recorded"
        )


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Fetch in turns; return a row for each way."""
    context = get_context("spawn")
    pipe, other = context.Pipe()
    server = context.Process(
        target=serve, args=(other, arguments.files, arguments.megabytes, arguments.rate), daemon=True
    )  # fmt: skip
    server.start()
    url, host, paths, digest = pipe.recv()
    taken: dict[str, list[tuple[float, float]]] = {}
    folder = record.ROOT / "build" / "retrieve"
    for _ in range(arguments.rounds):
        for name in ("curl", "lcu, MD5", "lcu, BLAKE3"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            if name == "curl":
                alone = run_curl(folder, url, paths)
                sums = timed(["md5sum", *[f"{number}.zip" for number in range(len(paths))]], folder)
                taken.setdefault(name, []).append(alone)
                both = (alone[0] + sums[0], alone[1] + sums[1])
                taken.setdefault("curl, then md5sum", []).append(both)
            else:
                pipe.send(name.removeprefix("lcu, ").lower())
                pipe.recv()
                taken.setdefault(name, []).append(run_lcu(folder, url, host, paths))
            check(folder, len(paths), digest)
    pipe.send("")
    server.join(30)
    shutil.rmtree(folder)
    return [row(name, times, taken["curl"], arguments) for name, times in taken.items()]


def row(
    name: str,
    times: list[tuple[float, float]],
    curl: list[tuple[float, float]],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Return the row of one way; its share of curl's speed is the median over the turns."""
    seconds = [seconds for seconds, _ in times]
    total = arguments.files * arguments.megabytes
    shares = [other / own for own, (other, _) in zip(seconds, curl, strict=True)]
    return {
        "files": arguments.files, "megabytes": total, "rate": arguments.rate, "streams": STREAMS,
        "implementation": name, "rounds": arguments.rounds,
        "seconds_median": f"{statistics.median(seconds):.4g}", "seconds_least": f"{min(seconds):.4g}",
        "seconds_most": f"{max(seconds):.4g}",
        "megabytes_per_second": f"{total / statistics.median(seconds):.4g}",
        "share_of_curl": f"{statistics.median(shares):.4g}",
        "cpu_seconds_per_gigabyte": f"{statistics.median(cpu for _, cpu in times) / total * 1000:.3g}",
    }  # fmt: skip


def write_page(rows: list[dict[str, str]]) -> None:
    """Put the table between its marks in docs/performance.md."""
    first = rows[0]
    lines = [
        f"Commit `{first['commit']}`, {first['date'][:10]}, {first['cpu']}: {first['files']} files, "
        f"{float(first['megabytes']) / 1000:.1f} GB, a server of {float(first['rate']):g} MB/s, {first['streams']} "
        f"streams, median of {first['rounds']} turns.\n",
        "| program | seconds | MB/s | of curl's speed | processor seconds per GB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['implementation']} | {float(row['seconds_median']):.1f} | {float(row['megabytes_per_second']):.1f} | "
        f"{float(row['share_of_curl']):.3f} | {float(row['cpu_seconds_per_gigabyte']):.2f} |"
        for row in rows
    ]
    record.put(record.PAGE, BEGIN, END, "\n".join(lines))


def main() -> None:
    """Measure; append the rows; write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--megabytes", type=int, default=128, help="of each file")
    parser.add_argument(
        "--rate", type=float, default=100.0, help="MB/s of the server, over all connections"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=TABLE, help="CSV file to append to")
    arguments = parser.parse_args()
    shared = record.provenance()
    rows = [shared | measured for measured in measure(arguments)]
    record.append(arguments.results, rows, COLUMNS)
    for measured in rows:
        print(", ".join(f"{name} {measured[name]}" for name in COLUMNS[4:]), flush=True)
    if arguments.results == TABLE:
        write_page(record.last_run(TABLE))


if __name__ == "__main__":
    main()
