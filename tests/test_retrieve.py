"""Retrieval against a real server on loopback, with every fault that real ones have."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcu import config, lock
from lcu.acquisition import safe
from lcu.config import ConfigError
from lcu.disk import DiskError
from lcu.grid import Duration, periods_of_year
from lcu.retrieve import RetrieveError, StoppedError, clearest, newest, parse_multihash, stage
from lcu.retrieve import catalogue as catalogues
from lcu.retrieve import credentials as accounts
from lcu.retrieve.catalogue import Candidate, Remote
from lcu.retrieve.transfer import Transfers, extract, inside
from lcu.retrieve.web import PassingError, Web, shown
from tests import safe_writer as writer
from tests.catalogue_server import PASSWORD, USER, Server, multihash
from tests.conftest import LIMIT, ROOT
from tests.test_lock import HOLD

ACCOUNT = {"LCU_USERNAME": USER, "LCU_PASSWORD": PASSWORD}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def web(server: Server) -> Web:
    return Web(
        config.Retrieve(catalogue="stac", url=f"{server.url}/stac/", timeout=1), threading.Event()
    )


def settings(folder: Path, server: Server, **keys: object) -> config.Config:
    """Return a configuration that fills `folder`/archive from the server."""
    (folder / "old.tif").touch()
    tables = {
        "run": {"directory": "run"},
        "archive": {"kind": "safe", "path": "archive", "years": [2018], "tiles": ["32TPS"]},
        "composite": {"bands": ["B02", "B05"]},
        "sample": {"old_map": "old.tif", "old_map_year": 2018},
        "retrieve": {"url": f"{server.url}/stac/", "token_url": f"{server.url}/token", "hosts": [server.host],
                     "timeout": 2},
    }  # fmt: skip
    for name, value in keys.items():
        table, _, key = name.partition("_")
        tables[table][key.replace("__", "_")] = value
    return config.build(tables, folder / "run.toml")


def retrieve(loaded: config.Config) -> tuple[list, str, list[str]]:
    """Run the stage in this process: (failures, summary, what it said)."""
    said: list[str] = []
    failures, summary = stage.run(loaded, lambda *_: None, said.append)
    return failures, summary, said


@pytest.fixture
def zips(tmp_path: Path) -> list[Path]:
    """Return three small zipped products of a tile, of different months."""
    return [
        writer.zip_safe(
            writer.write_safe(tmp_path / "made", day=day, bands=("B02", "B05", "SCL"), seed=number)
        )
        for number, day in enumerate(("20180215", "20180615", "20181015"))
    ]


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)


# --- the whole way ---------------------------------------------------------------------------------


def write_config(folder: Path, server: Server, landscape: Path) -> None:
    (folder / "run.toml").write_text(f"""
[run]
directory = "run"
[archive]
kind = "safe"
path = "archive"
years = [2018]
tiles = ["32TPS"]
[composite]
bands = ["B02", "B03", "B04", "B05", "B08", "B09", "B11"]
block = 320
shard = 320
[sample]
old_map = "{landscape}/old_map.tif"
old_map_year = 2016
per_class = 100
clean = false
[train]
c = [10]
gamma = [0.1]
folds = 2
[assess]
reference = "{landscape}/truth/{{tile}}_{{year}}_class.tif"
reference_nomenclature = "value"
[retrieve]
catalogue = "cdse"
url = "{server.url}/stac/"
token_url = "{server.url}/token"
hosts = ["{server.host}"]
count = 12
timeout = 2
""")


def start(folder: Path, command: str, *more: str, ranks: int = 0) -> list[str]:
    launch = ["mpirun", "-n", str(ranks)] if ranks else []
    return ["timeout", "-k", "5", str(LIMIT), *launch, sys.executable, "-m", "lcu.main", command,
            str(folder / "run.toml"), *more]  # fmt: skip


def call(folder: Path, command: str, *more: str, code: int = 0, ranks: int = 0) -> str:
    done = subprocess.run(
        start(folder, command, *more, ranks=ranks), env=os.environ | ACCOUNT, cwd=ROOT, capture_output=True, text=True,
        timeout=LIMIT + 30, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def everything_written(folder: Path) -> str:
    """Return the text of all small files of a run and an archive."""
    files = [
        path for part in ("run", "archive") for path in (folder / part).rglob("*") if path.is_file()
    ]
    return "".join(path.read_text(errors="ignore") for path in files if path.stat().st_size < 10**6)


@pytest.mark.timeout(2 * LIMIT)
def test_retrieve_then_run_with_every_fault_switched_on(
    landscape: Path, tmp_path: Path, server: Server
) -> None:
    made = sorted((landscape / "products").glob("*MSIL2A_2018*_T32TPS_*.SAFE"))[:12]
    for number, product in enumerate(made):
        copied = shutil.copytree(product, tmp_path / "zips" / product.name)
        server.add_product(writer.zip_safe(copied), "blake3" if number % 2 else "md5")
    paths = sorted(server.files)
    server.lasts = 2.0
    server.fault("/stac/", 503)
    server.fault("/stac/search", 429, 500)
    server.fault("/token", 502)
    for path, faults in zip(
        paths, [(429, "cut"), (500,), ("cut", 503, "cut"), ("wrong",), ("trickle",), ("loop",), ("denied",)],
        strict=False,
    ):  # fmt: skip
        server.fault(path, *faults)
    write_config(tmp_path, server, landscape)

    said = call(tmp_path, "retrieve", "--dry-run")
    assert f"32TPS     2018{len(made):>8}{len(made):>8}" in said
    assert not (tmp_path / "archive").exists() and not (tmp_path / "run").exists()

    server.fault("/stac/", 503)
    server.fault("/stac/search", 429, 500)
    said = call(tmp_path, "retrieve", code=1)
    assert (
        f"{len(made) - 1} of {len(made)} acquisitions" in said and "more than 5 redirects" in said
    )
    assert server.grants["password"] >= 1 and server.most_at_once <= 4
    assert all(not faults or faults[0] == "loop" for faults in server.faults.values()), (
        server.faults
    )

    server.faults.clear()
    server.asked.clear()
    said = call(tmp_path, "retrieve", ranks=2)  # only what is missing, by one of the ranks
    files = {path for method, path, _ in server.asked if method == "GET" and path in server.files}
    assert files == {paths[5]} and f"{len(made)} of {len(made)} acquisitions" in said
    kept = {
        hashlib.md5(path.read_bytes()).digest() for path in (tmp_path / "archive").glob("*.zip")
    }
    assert kept == {hashlib.md5(content).digest() for content in server.files.values()}
    assert not list((tmp_path / "archive").glob("*.partial"))
    with (tmp_path / "archive" / "retrieved.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(made)

    said = call(tmp_path, "run", ranks=2)
    assert (
        list((tmp_path / "run" / "maps").glob("LCU_LC_MAP_S2018_*.tif"))
        and "\nretrieve " not in said
    )
    written = everything_written(tmp_path)
    assert PASSWORD not in written and not [token for token in server.tokens if token in written]


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_retrieve_loses_nothing(
    tmp_path: Path, server: Server, number: signal.Signals
) -> None:
    content = random.Random(1).randbytes(3 * 10**6)
    target = make_one_product(server, content, tmp_path)
    server.rate = 10**6
    write_config(tmp_path, server, tmp_path)
    (tmp_path / "old_map.tif").touch()
    command = [sys.executable, "-m", "lcu.main", "retrieve", str(tmp_path / "run.toml")]
    with subprocess.Popen(
        command, env=os.environ | ACCOUNT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        partials = (tmp_path / "archive").glob
        wait_for(lambda: any(path.stat().st_size > 10**6 for path in partials("*.partial")))
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    if number != signal.SIGKILL:
        assert process.returncode == 3 and "the same command goes on" in said, said
    here = sum(path.stat().st_size for path in partials("*.partial"))
    assert here > 10**6
    server.rate = 0
    server.asked.clear()
    call(tmp_path, "retrieve")
    ranges = [headers.get("Range") for _, path, headers in server.asked if path == target]
    assert ranges == [f"bytes={here}-"]
    assert next(partials("*.zip")).read_bytes() == server.files[target]


def make_one_product(server: Server, filling: bytes, folder: Path) -> str:
    """Serve one product whose zip holds `filling` too; return its path."""
    product = writer.write_safe(folder / "made", bands=("B02",))
    (product / "filling.bin").write_bytes(filling)
    return server.add_product(writer.zip_safe(product))


# --- transfer --------------------------------------------------------------------------------------


CONTENT = random.Random(2).randbytes(2_500_000)


def fetch(web: Web, server: Server, folder: Path, *faults: object, **more: object) -> bytes:
    """Fetch one file that is served with faults; return what is in the folder then."""
    server.files["/file.tif"] = CONTENT
    server.fault("/file.tif", *faults)
    Transfers(web, folder).fetch(Remote(f"{server.url}/file.tif", "one/file.tif", **more))
    assert [path.name for path in (folder / "one").iterdir()] == ["file.tif"]
    return (folder / "one" / "file.tif").read_bytes()


SUM = ("md5", hashlib.md5(CONTENT).hexdigest())


@pytest.mark.parametrize("checksum", [None, SUM])
def test_a_broken_transfer_goes_on_where_it_broke(
    web: Web, server: Server, tmp_path: Path, checksum: tuple[str, str] | None
) -> None:
    assert fetch(web, server, tmp_path, "cut", "cut", checksum=checksum) == CONTENT
    ranges = [headers.get("Range") for _, _, headers in server.asked]
    assert ranges == [None, "bytes=1250000-", "bytes=1875000-"]


def test_a_server_without_ranges_that_always_breaks_is_given_up(
    web: Web, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcu.retrieve.web.ATTEMPTS", 2)
    with pytest.raises(RetrieveError, match="in the middle"):
        fetch(web, server, tmp_path, *["short"] * 20)
    assert len(server.asked) < 6


def test_a_wrong_check_sum_is_fetched_again_once(web: Web, server: Server, tmp_path: Path) -> None:
    assert fetch(web, server, tmp_path, "wrong", checksum=SUM, size=len(CONTENT)) == CONTENT
    with pytest.raises(RetrieveError, match="md5 is .* the catalogue states .*2 times"):
        fetch(web, server, tmp_path / "twice", "wrong", "wrong", checksum=SUM)
    assert list((tmp_path / "twice" / "one").iterdir()) == []


def test_what_changed_on_the_server_is_not_continued(
    web: Web, server: Server, tmp_path: Path
) -> None:
    server.files["/file.tif"] = CONTENT
    server.rate = 10**7
    remote = Remote(f"{server.url}/file.tif", "file.tif")
    stopper = threading.Timer(0.15, web.stop.set)
    stopper.start()
    with pytest.raises(StoppedError):
        Transfers(web, tmp_path).fetch(remote)
    assert 0 < next(tmp_path.glob("*.partial")).stat().st_size < len(CONTENT)
    server.rate, server.files["/file.tif"] = 0, bytes(len(CONTENT))
    web.stop.clear()
    Transfers(web, tmp_path).fetch(remote)
    assert (tmp_path / "file.tif").read_bytes() == bytes(len(CONTENT))


def test_sizes_are_bounded(web: Web, server: Server, tmp_path: Path) -> None:
    with pytest.raises(RetrieveError, match="has 2500000 bytes, the catalogue states 100"):
        fetch(web, server, tmp_path, size=100)
    server.files["/big"] = b"[" * (65 * 2**20)
    with pytest.raises(RetrieveError, match="more than 67108864 bytes"):
        web.text("GET", f"{server.url}/big")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "..", "", "a\\..\\x", "link/x", "a\0b"]
)
def test_names_never_leave_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(RetrieveError, match="refused"):
        inside(folder, name)
    assert inside(folder, "a/b.tif") == folder / "a" / "b.tif"


@pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil", "a\\evil"])
def test_zips_whose_members_would_leave_their_folder_are_refused(
    web: Web, server: Server, tmp_path: Path, member: str
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, "x")
    server.files["/evil.zip"] = packed.getvalue()
    with pytest.raises(RetrieveError, match="would lie outside of the product"):
        Transfers(web, tmp_path).fetch(Remote(f"{server.url}/evil.zip", "evil.zip"))
    assert list(tmp_path.glob("evil*")) == []


def test_what_is_no_zip_is_not_kept(web: Web, server: Server, tmp_path: Path) -> None:
    server.files["/p.zip"] = b"<html>please log in</html>"
    with pytest.raises(RetrieveError, match="is no whole zip"):
        Transfers(web, tmp_path).fetch(Remote(f"{server.url}/p.zip", "p.zip"))


def test_the_member_of_a_zip_becomes_the_old_map(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "u2018.zip", "w") as archive:
        archive.writestr("u2018/DATA/U2018.tif", b"map")
        archive.writestr("u2018/readme.txt", b"text")
    extract(tmp_path / "u2018.zip", tmp_path / "u2018.TIF")
    assert (tmp_path / "u2018.TIF").read_bytes() == b"map"
    with pytest.raises(RetrieveError, match="0 members are called other.tif"):
        extract(tmp_path / "u2018.zip", tmp_path / "other.tif")


# --- the network -----------------------------------------------------------------------------------


def test_retry_after_is_honoured(web: Web, server: Server) -> None:
    server.files["/x"] = b"{}"
    server.retry_after = "2"
    server.fault("/x", 429)
    begun = time.monotonic()
    assert web.text("GET", f"{server.url}/x") == "{}"
    assert time.monotonic() - begun > 2
    in_two_hours = datetime.now(UTC) + timedelta(hours=2)
    for server.retry_after in ("7200", format_datetime(in_two_hours, usegmt=True)):
        server.fault("/x", 429)
        with pytest.raises(RetrieveError, match="wants 120 minutes of rest"):
            web.text("GET", f"{server.url}/x")


def test_no_pause_outlives_the_end(web: Web, server: Server) -> None:
    server.retry_after = "600"
    server.fault("/x", 429)
    threading.Timer(0.3, web.stop.set).start()
    begun = time.monotonic()
    with pytest.raises(StoppedError):
        web.text("GET", f"{server.url}/x")
    assert time.monotonic() - begun < 5


def with_account(web: Web, server: Server, password: str = PASSWORD) -> accounts.Account:
    return accounts.Account(
        web, f"{server.url}/token", "cdse-public", (server.host,), (USER, password)
    )


def test_tokens_go_to_the_accounts_hosts_only(web: Web, server: Server) -> None:
    web.account = with_account(web, server)
    with Server() as other:
        for one in (server, other):
            one.files["/x"] = b"{}"
        server.fault("/x", f"to {other.url}/x")
        other.fault("/y", f"to {server.url}/x")
        web.text("GET", f"{server.url}/x")
        web.text("GET", f"{other.url}/y")
        assert not [1 for _, _, headers in other.asked if "Authorization" in headers]
        with_token = [path for _, path, headers in server.asked if "Authorization" in headers]
        assert with_token == ["/x"]  # the second came by a redirect from elsewhere


def test_tokens_are_renewed_and_a_wrong_password_ends_at_once(web: Web, server: Server) -> None:
    server.files["/x"] = b"{}"
    server.private.add("/x")
    server.lasts = 1.0
    web.account = with_account(web, server)
    for _ in range(3):
        web.text("GET", f"{server.url}/x")
        time.sleep(0.6)
    assert server.grants == {"password": 1, "refresh_token": 2}
    server.tokens.clear()  # revoked before its time
    server.lasts = 600.0
    assert web.text("GET", f"{server.url}/x") == "{}"
    web.account = with_account(web, server, "not-this-one")
    with pytest.raises(RetrieveError) as caught:
        web.text("GET", f"{server.url}/x")
    assert "401" in str(caught.value) and "not-this-one" not in str(caught.value) + repr(
        web.account
    )
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://example.org/x",
        "gopher://a/x",
        "https://u:p@h/x",
    ],
)
def test_redirects_to_other_schemes_are_refused(web: Web, server: Server, target: str) -> None:
    server.fault("/x", f"to {target}")
    with pytest.raises(RetrieveError, match="refused|only https"):
        web.text("GET", f"{server.url}/x")


def test_a_redirect_loop_ends(web: Web, server: Server) -> None:
    server.fault("/x", "loop")
    with pytest.raises(RetrieveError, match="more than 5 redirects"):
        web.text("GET", f"{server.url}/x")


def test_a_catalogue_of_the_network_cannot_lead_to_this_machine() -> None:
    careful = Web(config.Retrieve(), threading.Event())
    for address in (
        "http://127.0.0.1/x",
        "http://stac.dataspace.copernicus.eu/x",
        "file:///x",
        "/x",
    ):
        assert not careful.allows(address)
    assert careful.allows("https://stac.dataspace.copernicus.eu/v1/")


def test_certificates_are_verified(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
               "-keyout", tmp_path / "key", "-out", tmp_path / "crt"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True)
                except OSError:  # the client leaves
                    return

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        careful = Web(config.Retrieve(), threading.Event())
        with pytest.raises(RetrieveError, match="TLS.*certificate"):
            careful.open("GET", f"https://localhost:{listening.getsockname()[1]}/x")
        thread.join(10)


def test_messages_hold_no_query() -> None:
    assert shown("https://me:pw@Host:1/a?sig=secret#x") == "https://host:1/a"
    nobody = Web(config.Retrieve(catalogue="stac", url="http://127.0.0.1:9/"), threading.Event())
    with pytest.raises(PassingError) as caught:
        nobody.open("GET", "http://127.0.0.1:9/a?sig=secret")
    assert "secret" not in str(caught.value) and "ConnectionRefusedError" in str(caught.value)


# --- credentials -----------------------------------------------------------------------------------


def test_credentials_are_found_where_they_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ACCOUNT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    url = "https://identity.example/token"
    with pytest.raises(ConfigError, match="no account for identity.example.*docs/data.md"):
        accounts.find("", url)
    for name, text in (("netrc", f"machine identity.example login a password {PASSWORD}"),
                       ("file", f'username = "b"\npassword = "{PASSWORD}"')):  # fmt: skip
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600") as caught:
            accounts.find(str(tmp_path / "file") if name == "file" else "", url)
        assert PASSWORD not in str(caught.value)
        (tmp_path / name).chmod(0o600)
    assert accounts.find("", url) == ("a", PASSWORD)
    assert accounts.find(str(tmp_path / "file"), url) == ("b", PASSWORD)
    monkeypatch.setenv("LCU_USERNAME", "c")
    monkeypatch.setenv("LCU_PASSWORD", "d")
    assert accounts.find("", url) == ("c", "d")
    (tmp_path / "file").write_text(f"password = {PASSWORD}")
    with pytest.raises(ConfigError) as caught:
        accounts.find(str(tmp_path / "file"), url)
    assert PASSWORD not in str(caught.value)


# --- the choice ------------------------------------------------------------------------------------

YEAR = periods_of_year(2018, Duration(months=1))


def candidate(name: str, day: int, clear: float = 50.0, **more: object) -> Candidate:
    """Return an acquisition of a day of 2018."""
    time = datetime.strptime(f"2018 {day}", "%Y %j").replace(tzinfo=UTC)
    keys = {"tile": "32TPS", "level": "L2A", "baseline": "02.12", "cloud_cover": 100 - clear, "datatake": name,
            "strip": 0.0, "generated": "", "files": ()} | more  # fmt: skip
    return Candidate(id=name, time=time, clear=clear, **keys)


@given(
    st.lists(st.tuples(st.integers(1, 365), st.integers(0, 100)), max_size=60), st.integers(1, 30)
)
def test_the_choice_is_the_clearest_and_spread_over_the_year(
    days: list[tuple[int, int]], count: int
) -> None:
    found = [candidate(str(number), day, clear) for number, (day, clear) in enumerate(days)]
    chosen = clearest(found, YEAR, count)
    assert len(chosen) == min(count, len(found)) and chosen == clearest(found[::-1], YEAR, count)
    assert [one.time for one in chosen] == sorted(one.time for one in chosen)
    taken = {period: [one for one in chosen if one.time in period] for period in YEAR}
    for period, mine in taken.items():
        left = [one for one in found if one.time in period and one not in mine]
        assert not left or all(one.clear >= max(rest.clear for rest in left) for one in mine)
        # Who has less than another period by more than one has nothing left to give.
        assert not left or len(mine) >= max(map(len, taken.values())) - 1


def test_of_several_processings_the_newest_baseline_is_taken() -> None:
    old = candidate("a", 10, datatake="T", baseline="02.06", generated="2018")
    new = candidate("b", 10, datatake="T", baseline="05.00", generated="2023", strip=3.0)
    other_half = candidate("c", 10, datatake="T", baseline="05.00", strip=300.0)
    raw = candidate("d", 10, datatake="T", baseline="05.10", level="L1C")
    assert newest([old, new, other_half, raw]) == [new, other_half]


def test_an_acquisition_counts_for_what_it_shows_of_the_tile(server: Server, web: Web) -> None:
    product = safe_found(server)
    server.add_item("part", {}, product, **{"statistics": {"nodata": 90.0}, "eo:cloud_cover": 0.0})
    server.add_item("whole", {}, product, **{"eo:cloud_cover": 40.0})
    clear = [catalogues._candidate(item, "x", (), {}).clear for item in server.items]
    assert clear == [10.0, 60.0]


def safe_found(server: Server, tile: str = "32TPS"):
    """Return what the metadata of a product say."""
    time = datetime(2018, 6, 15, 10, tzinfo=UTC)
    own = safe.Acquisition("p", tile, time, "sentinel-2a", "L2A", "05.00", 10.0, {}, None, "x")
    return safe.Found(own, "GS2A_20180615T101021", 0.0, "20201007T160857")


# --- catalogues ------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["filter", "query", "fields"])
def test_a_search_reads_all_pages_of_the_tile_and_the_year(
    tmp_path: Path, server: Server, web: Web, extension: str
) -> None:
    server.extension = extension
    for number in range(12):
        asset = {"href": f"{server.url}/x", "type": "application/zip"}
        server.add_item(f"p{number}", {"Product": asset}, safe_found(server))
    server.add_item("cloudy", {}, safe_found(server), **{"eo:cloud_cover": 99.0})
    server.add_item("elsewhere", {}, safe_found(server, "31UFT"))
    look = catalogues.open_catalogue(settings(tmp_path, server), web)
    found = list(look("32TPS", YEAR[0].start, YEAR[-1].end))
    assert sorted(one.id for one in found) == sorted(f"p{number}" for number in range(12))
    assert len([1 for _, path, _ in server.asked if path == "/stac/search"]) == 3
    assert list(look("32TPS", datetime(2019, 1, 1).date(), datetime(2020, 1, 1).date())) == []


@pytest.mark.parametrize("name", ["../../evil", "/evil", ".hidden", "a b", "x" * 300])
def test_items_with_names_that_are_no_names_are_left_out(
    tmp_path: Path, server: Server, web: Web, name: str
) -> None:
    asset = {"href": f"{server.url}/x", "type": "application/zip"}
    server.add_item(name, {"Product": asset}, safe_found(server))
    look = catalogues.open_catalogue(settings(tmp_path, server), web)
    (failure,) = look("32TPS", YEAR[0].start, YEAR[-1].end)
    assert "refused as the name of a file" in failure.reason


def add_bands(server: Server, zipped: Path, checksum: str) -> None:
    """Serve the bands of a product as single GeoTIFFs, as earth-search does."""
    files = safe.products(str(zipped))[0]
    found = safe.parse(files, {"B02", "B05", "SCL"})
    assets = {}
    for key, band in (("blue", "B02"), ("rededge1", "B05"), ("scl", "SCL"), ("visual", None)):
        path = f"/cogs/{found.acquisition.id}/{key}.tif"
        if band:
            values = writer.numbers(band)
            raster = zipped.with_name(f"{band}.tif")
            writer.write_raster(raster, values, writer.RESOLUTIONS[band])
            server.files[path] = raster.read_bytes()
        assets[key] = {"href": server.url + path, "type": "image/tiff; application=geotiff"}
        if band and checksum:
            content = server.files[path]
            assets[key] |= {
                "file:size": len(content),
                "file:checksum": multihash(content, checksum),
            }
    server.add_item(found.acquisition.id, assets, found, **{"earthsearch:boa_offset_applied": True})


@pytest.mark.parametrize("checksum", ["", "sha256"])
def test_of_single_bands_only_those_of_the_run_are_fetched_and_read(
    tmp_path: Path, server: Server, zips: list[Path], checksum: str
) -> None:
    from mpi4py import MPI

    from lcu.acquisition import find

    for zipped in zips:
        add_bands(server, zipped, checksum)
    loaded = settings(tmp_path, server, archive_kind="stac", retrieve_catalogue="stac", retrieve_token__url="",
                      retrieve_hosts=[])  # fmt: skip
    failures, summary, said = retrieve(loaded)
    assert failures == [] and summary.startswith("3 of 3 acquisitions")
    assert said[1].split()[:8] == ["32TPS", "2018", "3", "3", "12", "%", "0", "3"]
    names = sorted(path.name for path in (tmp_path / "archive").rglob("*.tif"))
    assert names == sorted(3 * ["B02.tif", "B05.tif", "SCL.tif"])
    acquisitions, _, faults = find(loaded, MPI.COMM_SELF)
    assert len(acquisitions["32TPS"]) == 3 and faults == []
    server.asked.clear()
    retrieve(loaded)
    assert [
        path for method, path, _ in server.asked if method == "GET" and path.startswith("/cogs")
    ] == []


def test_a_static_catalogue_is_read(tmp_path: Path, server: Server, zips: list[Path]) -> None:
    add_bands(server, zips[0], "")
    item = server.items[0]
    for asset in item["assets"].values():
        asset["href"] = "../.." + asset["href"].removeprefix(server.url)
    outside = {"rel": "item", "href": "file:///etc/hostname"}
    links = [{"rel": "item", "href": "./one/item.json"}]
    catalogue = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "-"}
    server.files["/static/catalog.json"] = json.dumps(catalogue | {"links": links}).encode()
    server.files["/static/one/item.json"] = json.dumps(item).encode()
    address = f"{server.url}/static/catalog.json"
    loaded = settings(tmp_path, server, archive_kind="stac", retrieve_catalogue="stac", retrieve_url=address,
                      retrieve_token__url="", retrieve_hosts=[])  # fmt: skip
    failures, summary, _ = retrieve(loaded)
    assert failures == [] and summary.startswith("1 of 1 acquisitions")
    server.files["/static/catalog.json"] = json.dumps(catalogue | {"links": [outside]}).encode()
    with pytest.raises(RetrieveError, match="no address of the network"):
        retrieve(loaded)


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_a_folder_of_this_machine_is_a_catalogue_too(
    tmp_path: Path, server: Server, zips: list[Path], kind: str
) -> None:
    if kind == "folder":
        for zipped in zips:
            with zipfile.ZipFile(zipped) as archive:
                archive.extractall(zipped.parent)
            zipped.unlink()
    loaded = settings(tmp_path, server, retrieve_catalogue="folder", retrieve_url="made", retrieve_token__url="",
                      retrieve_hosts=[], retrieve_count=2)  # fmt: skip
    failures, summary, said = retrieve(loaded)
    assert failures == [] and summary.startswith("2 of 2 acquisitions") and "GB" in said[0]
    for path in (tmp_path / "archive").rglob("*"):
        source = tmp_path / "made" / path.relative_to(tmp_path / "archive")
        if path.is_file() and path.name not in ("lock", "lock.txt", "retrieved.csv"):
            assert path.read_bytes() == source.read_bytes()
    assert server.asked == []


def test_items_as_public_catalogues_serve_them(
    tmp_path: Path, server: Server, shared: Path
) -> None:
    careful = Web(config.Retrieve(), threading.Event())
    folder = shared / "catalogue"
    item = json.loads((folder / "CDSE_STAC_v1.1_S2C_L2A_item_EXCERPT.json").read_text())
    href = catalogues._reachable(item["assets"]["B02_10m"], "https://x/", "x", careful)
    assert href.startswith("https://zipper.dataspace.copernicus.eu/odata/v1/Products(")
    assert catalogues._suffix(item["assets"]["B02_10m"], href, "x") == ".jp2"
    for name in (
        "S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531",
        "S2A_28QCH_20200714_0_L2A",
    ):
        item = json.loads((folder / f"{name}.json").read_text())
        loaded = settings(tmp_path, server, archive_kind="stac")
        wanted = catalogues._wanted(item, name, loaded)
        assert list(wanted) == ["B02", "B05", "SCL"]
        assert all(careful.allows(asset["href"]) for asset in wanted.values())


def test_multihashes_are_read_and_mislabelled_ones_left() -> None:
    for algorithm in ("md5", "blake3", "sha256"):
        digest = multihash(b"x", algorithm)[4 if algorithm != "md5" else 6 :]
        assert parse_multihash(multihash(b"x", algorithm)) == (algorithm, digest)
    # Of a product's metadata in the Copernicus Data Space: MD5 is said, 32 bytes are given.
    assert (
        parse_multihash("d50120e053d066a343004eef137ea3013d6eb0648d956fc3807537bd3e3ec9a9df73ca")
        is None
    )
    assert [parse_multihash(text) for text in (None, "", "zz", "d5", "1220ab", 7)] == [None] * 6


# --- what can go wrong before anything is fetched ---------------------------------------------------


def test_the_example_is_a_configuration() -> None:
    loaded = config.load(ROOT / "examples" / "netherlands.toml")
    assert len(loaded.archive.tiles) == 10 and loaded.retrieve.catalogue == "cdse"


def test_wrong_keys_are_named(tmp_path: Path, server: Server) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(
            tmp_path,
            server,
            archive_tiles=[],
            archive_path=["a", "b"],
            retrieve_catalogue="earth-search",
            retrieve_hosts=[],
        )
    for part in ("archive.tiles", "archive.kind", "retrieve.hosts", "archive.path: retrieve fills"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="retrieve.url: user names") as caught:
        settings(tmp_path, server, retrieve_url="https://me:pw@host/")
    assert "pw" not in str(caught.value)
    with pytest.raises(ConfigError, match="expected https"):
        settings(tmp_path, server, retrieve_url="http://example.org/")


def test_a_full_disk_is_told_before(
    tmp_path: Path, server: Server, zips: list[Path], account: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for zipped in zips:
        server.add_product(zipped)
    monkeypatch.setattr(stage, "SPARE", 2**60)
    with pytest.raises(DiskError, match="archive.path: .* GB free, 0.. GB are to come"):
        retrieve(settings(tmp_path, server))
    assert [path for _, path, _ in server.asked if "Products" in path] == []


def test_a_disk_that_fills_up_ends_it_and_what_came_stays(tmp_path: Path, server: Server) -> None:
    make_one_product(server, random.Random(1).randbytes(40 * 10**6), tmp_path)
    write_config(tmp_path, server, tmp_path)
    (tmp_path / "old_map.tif").touch()
    command = shlex.join(
        start(tmp_path, "retrieve")
    )  # a limit of the size of files is like a full disk
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 30000; exec {command}"],
        env=os.environ | ACCOUNT, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT + 30, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "partial cannot be written" in done.stderr, done.stderr
    assert next((tmp_path / "archive").glob("*.partial")).stat().st_size == 30000 * 1024
    assert "1 of 1 acquisitions" in call(tmp_path, "retrieve")


def test_one_retrieve_at_a_time_fills_an_archive(
    tmp_path: Path, server: Server, account: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "archive").mkdir()
    monkeypatch.setattr(lock.take, "__defaults__", (0.1, "run.directory"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "archive")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:  # fmt: skip
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(lock.LockError, match="archive.path: another job writes"):
                retrieve(settings(tmp_path, server))
        finally:
            other.kill()


def test_the_old_map_is_made_from_an_address(
    tmp_path: Path, server: Server, zips: list[Path], account: None
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("maps/corine.tif", b"a map")
    server.files["/corine.zip"] = packed.getvalue()
    server.add_product(zips[0])
    address = f"{server.url}/corine.zip"
    loaded = settings(tmp_path, server, sample_old__map="corine.tif", retrieve_old__map=address)
    failures, _, _ = retrieve(loaded)
    assert failures == [] and (tmp_path / "corine.tif").read_bytes() == b"a map"
    (tmp_path / "corine.tif").unlink()
    server.files["/corine.zip"] = b"<html>please log in</html>"
    failures, _, _ = retrieve(loaded)
    assert (
        "docs/data.md has the steps" in failures[0].reason
        and not (tmp_path / "corine.tif").exists()
    )


def test_retrieve_without_its_table_is_wrong_usage(tmp_path: Path, server: Server) -> None:
    write_config(tmp_path, server, tmp_path)
    for name in ("old_map.tif", "archive"):
        (tmp_path / name).touch()
    text = (tmp_path / "run.toml").read_text()
    (tmp_path / "run.toml").write_text(text[: text.index("[retrieve]")])
    assert "no [retrieve] table" in call(tmp_path, "retrieve", code=2)


def test_a_missing_account_is_wrong_usage(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, server, tmp_path)
    (tmp_path / "old_map.tif").touch()
    monkeypatch.setitem(ACCOUNT, "LCU_PASSWORD", "")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert "no account for 127.0.0.1" in call(tmp_path, "retrieve", code=2)
