"""A small catalogue with an account on loopback, which has every fault that real ones have, on demand."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from blake3 import blake3

from lcu.acquisition import safe

USER, PASSWORD = "someone", "a-secret-of-someone"
CORE = "https://api.stacspec.org/v1.0.0"
STEP = 2**16
PAGE = 5  # items on a page, whatever the client wants
CODES = {"md5": "d50110", "blake3": "1e20", "sha256": "1220"}


def multihash(content: bytes, algorithm: str) -> str:
    """Return a check sum as `file:checksum` has it."""
    made = blake3(content) if algorithm == "blake3" else hashlib.new(algorithm, content)
    return CODES[algorithm] + made.hexdigest()


class Server:
    """Serves `files` (path -> content) and `items`; `faults` (path -> what goes wrong next) come first.

    A fault is a status code, `cut` (half of the rest, then the connection ends), `short` (the same from the
    first byte, whatever was asked for), `wrong` (a byte is changed),
    `trickle` (a byte now and then), `loop` (redirects to itself, for ever), `to URL` (redirects), `denied`.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.items: list[dict[str, Any]] = []
        self.faults: dict[str, deque[Any]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.extension = "filter"  # of the search: filter, query, or none that is known
        self.lasts = 600.0  # seconds that a token is valid
        self.retry_after = "1"
        self.rate = 0.0  # bytes per second of all answers together; 0: as fast as it goes
        self._next = 0.0
        self.grants: Counter[str] = Counter()
        self.tokens: dict[str, float] = {}
        self.refresh: set[str] = set()
        self.most_at_once = self.at_once = 0
        self.lock = threading.Lock()
        handler = type("Handler", (Handler,), {"own": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.host = f"127.0.0.1:{self._http.server_port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def wait_for(self, size: int) -> None:
        """Wait until so many bytes may be sent."""
        with self.lock:
            turn = self._next = max(self._next, time.monotonic()) + size / self.rate
        time.sleep(max(turn - time.monotonic(), 0))

    def fault(self, path: str, *faults: Any) -> None:
        """Let the next requests of a path go wrong, one after the other."""
        self.faults[path] = deque(faults)

    def add_product(self, product: Path, algorithm: str = "md5") -> str:
        """Serve a zipped SAFE product to those with a token; return the path of its zip."""
        content = product.read_bytes()
        found = safe.parse(safe.products(str(product))[0], set())
        path = f"/odata/Products({len(self.items):08d})/$value"
        self.files[path] = content
        self.private.add(path)
        asset = {"href": f"s3://eodata/{found.acquisition.id}", "type": "application/zip",
                 "alternate": {"https": {"href": self.url + path}}, "file:size": len(content),
                 "file:checksum": multihash(content, algorithm)}  # fmt: skip
        self.add_item(found.acquisition.id, {"Product": asset}, found)
        return path

    def add_item(
        self, name: str, assets: dict[str, Any], found: Any, **more: Any
    ) -> dict[str, Any]:
        """Serve an item with the properties of a product."""
        own = found.acquisition
        item = {
            "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": name,
            "collection": "sentinel-2-l2a", "geometry": None, "assets": assets,
            "links": [{"rel": "self", "href": f"{self.url}/stac/items/{name}"}],
            "properties": {
                "datetime": own.time.isoformat(), "grid:code": f"MGRS-{own.tile}", "platform": own.platform,
                "eo:cloud_cover": own.cloud_cover, "eopf:datatake_id": f"{found.datatake}_000001_N02.12",
                "processing:version": own.baseline, "processing:datetime": found.generated,
            } | more,
        }  # fmt: skip
        self.items.append(item)
        return item


class Handler(BaseHTTPRequestHandler):
    own: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        with suppress(ConnectionError):  # clients may leave
            super().handle()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        own = self.own
        path = urlsplit(self.path).path
        length = int(self.headers.get("Content-Length") or 0)
        self.sent = self.rfile.read(length)
        with own.lock:
            own.asked.append((self.command, path, dict(self.headers.items())))
            faults = own.faults.get(path)
            fault = None
            if faults:
                fault = faults[0] if faults[0] == "loop" else faults.popleft()
            own.at_once += 1
            own.most_at_once = max(own.most_at_once, own.at_once)
        try:
            with suppress(ConnectionError):
                self.answer(path, fault)
        finally:
            with own.lock:
                own.at_once -= 1

    def answer(self, path: str, fault: Any) -> None:
        if isinstance(fault, int):
            self.send(b"{}", fault, {"Retry-After": self.own.retry_after})
        elif fault == "loop":
            self.send(b"", 302, {"Location": self.path})
        elif isinstance(fault, str) and fault.startswith("to "):
            self.send(b"", 302, {"Location": fault[3:]})
        elif path == "/token":
            self.token()
        elif path == "/stac/search":
            self.search()
        elif path in ("/stac", "/stac/"):
            search = f"{CORE}/item-search"
            conforms = [f"{CORE}/core", search, f"{search}#{self.own.extension}"]
            root = {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "here",
                "description": "-",
                "conformsTo": conforms,
            }
            link = {"rel": "search", "href": f"{self.own.url}/stac/search", "method": "POST",
                    "type": "application/geo+json"}  # fmt: skip
            self.send_json(
                root | {"links": [link, {"rel": "self", "href": f"{self.own.url}/stac/"}]}
            )
        elif path in self.own.files:
            if path in self.own.private and (fault == "denied" or not self.authorised()):
                self.send(b"no", 401)
            else:
                self.file(self.own.files[path], fault)
        else:
            self.send(b"not here", 404)

    def authorised(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.own.tokens.get(token, 0) > time.monotonic()

    def token(self) -> None:
        own, form = (
            self.own,
            {name: values[0] for name, values in parse_qs(self.sent.decode()).items()},
        )
        kind = form.get("grant_type", "")
        good = {
            "password": (form.get("username"), form.get("password")) == (USER, PASSWORD),
            "refresh_token": form.get("refresh_token") in own.refresh,
        }
        if not good.get(kind):
            self.send(json.dumps({"error_description": f"wrong: {form}"}).encode(), 401)
            return
        own.grants[kind] += 1
        token, refresh = secrets.token_hex(16), secrets.token_hex(16)
        own.tokens[token] = time.monotonic() + own.lasts
        own.refresh.add(refresh)
        self.send_json(
            {
                "access_token": token,
                "expires_in": own.lasts,
                "refresh_token": refresh,
                "refresh_expires_in": 3600,
            }
        )

    def search(self) -> None:
        wanted = json.loads(self.sent)
        first, last = wanted["datetime"].split("/")
        code, limit = None, 100.0
        if "filter" in wanted:
            code, limit = (argument["args"][1] for argument in wanted["filter"]["args"])
        elif "query" in wanted:
            code, limit = (
                wanted["query"]["grid:code"]["eq"],
                wanted["query"]["eo:cloud_cover"]["lte"],
            )
        found = [
            item
            for item in self.own.items
            if first <= item["properties"]["datetime"] <= last
            and code in (None, item["properties"]["grid:code"])
            and item["properties"]["eo:cloud_cover"] <= limit
        ]
        start = wanted.get("start", 0)
        links = []
        if start + PAGE < len(found):
            links = [{"rel": "next", "href": f"{self.own.url}/stac/search", "method": "POST", "merge": False,
                      "body": wanted | {"start": start + PAGE}}]  # fmt: skip
        self.send_json(
            {"type": "FeatureCollection", "features": found[start : start + PAGE], "links": links}
        )

    def send_json(self, content: dict[str, Any]) -> None:
        self.send(json.dumps(content).encode())

    def send(
        self, content: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def file(self, content: bytes, fault: Any) -> None:
        """Send a file from where it is asked for, with the fault."""
        version, whole, start = hashlib.md5(content).hexdigest(), len(content), 0
        asked = "" if fault == "short" else self.headers.get("Range", "")
        found = re.fullmatch(r"bytes=(\d+)-", asked)
        if found:
            start = int(found[1])
            if start >= whole:
                self.send(b"", 416, {"Content-Range": f"bytes */{whole}"})
                return
        if fault == "wrong":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(206 if found else 200)
        self.send_header("ETag", f'"{version}"')
        self.send_header("Content-Length", str(whole - start))
        if found:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.end_headers()
        if self.command == "HEAD":
            return
        left = memoryview(content)[start:]
        if fault in ("cut", "short"):
            self.wfile.write(left[: len(left) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif fault == "trickle":
            for position in range(len(left)):
                self.wfile.write(left[position : position + 1])
                time.sleep(0.1)
        elif self.own.rate:
            for position in range(0, len(left), STEP):
                self.own.wait_for(STEP)
                self.wfile.write(left[position : position + STEP])
        else:
            self.wfile.write(left)
