"""Accounts: where user name and password come from, and the tokens that they give.

Neither is ever on a command line, in the configuration, in a log or in an error.
"""

from __future__ import annotations

import json
import netrc
import os
import threading
import time
import tomllib
from pathlib import Path

import requests

from lcu.config import ConfigError
from lcu.retrieve.web import RetrieveError, Web, host_of, no_account, shown

VARIABLES = ("LCU_USERNAME", "LCU_PASSWORD")

# Tokens in a row that may be refused, once one has worked.
REFUSALS = 3

# A token is renewed this many seconds before it expires, for the clocks may differ.
EARLY = 30.0


def find(file: str, token_url: str) -> tuple[str, str]:
    """Return user name and password: of the file, else of the environment, else of ~/.netrc.

    Raises
    ------
    ConfigError
        Saying where they were looked for, or that others may read the file.
    """
    if file:
        return _of_file(Path(file))
    name, password = (os.environ.get(variable, "") for variable in VARIABLES)
    if name and password:
        return name, password
    host = host_of(token_url).partition(":")[0]
    found = _of_netrc(Path(os.environ.get("NETRC") or Path.home() / ".netrc"), host)
    if found is None:
        raise ConfigError(
            f"retrieve: no account for {host}: set {' and '.join(VARIABLES)}, or write a line for machine {host} "
            "into ~/.netrc, or name a file in retrieve.credentials; docs/data.md says how to get an account"
        )
    return found


def _of_file(path: Path) -> tuple[str, str]:
    _check_private(path, "retrieve.credentials")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the text of the error may hold a line of the file
        table = {}
    name, password = table.get("username"), table.get("password")
    if not (isinstance(name, str) and isinstance(password, str) and name and password):
        raise ConfigError(
            f'retrieve.credentials: expected username = "..." and password = "..." in {path}'
        )
    return name, password


def _of_netrc(path: Path, host: str) -> tuple[str, str] | None:
    if not path.exists():
        return None
    try:
        entry = netrc.netrc(str(path)).authenticators(host)
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: cannot be read as a netrc file") from None
    if entry is None:
        return None
    _check_private(path, "retrieve")
    return entry[0], entry[2] or ""


def _check_private(path: Path, key: str) -> None:
    stat = path.stat()
    if stat.st_mode & 0o077 or stat.st_uid != os.getuid():
        raise ConfigError(
            f"{key}: {path} has mode {stat.st_mode & 0o777:o} and may be read by others, or is not yours; "
            f"chmod 600 {path}"
        )


class Account(requests.auth.AuthBase):
    """Puts a valid token on requests to the hosts of the account (OAuth2, password and refresh grants)."""

    def __init__(
        self, web: Web, token_url: str, client: str, hosts: tuple[str, ...], secret: tuple[str, str]
    ) -> None:
        self._web, self._url, self._client = web, token_url, client
        self._hosts = {host.lower() for host in hosts}
        self._secret = secret
        self._lock = threading.Lock()
        self._token = self._refresh = ""
        self._until = self._refresh_until = 0.0
        self._worked, self._refusals = False, 0

    def __repr__(self) -> str:
        return f"Account({shown(self._url)})"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token where the request goes to one of the account's hosts."""
        if host_of(request.url) in self._hosts:
            request.headers["Authorization"] = self.header()
        return request

    def header(self) -> str:
        """Return a header that is valid now; asks for a token where there is none."""
        with self._lock:
            if time.monotonic() > self._until:
                self._ask()
            return f"Bearer {self._token}"

    def worked(self) -> None:
        """Note that a token was accepted."""
        with self._lock:
            self._worked, self._refusals = True, 0

    def renews(self, header: str) -> bool:
        """Drop a header that was refused; False where tokens never worked, or a few new ones did not."""
        with self._lock:
            if header == f"Bearer {self._token}":
                self._until = 0.0
                self._refusals += 1
            return self._worked and self._refusals <= REFUSALS

    def _ask(self) -> None:
        """Get a token, by the last answer's refresh token while that is valid."""
        name, password = self._secret
        form = {"client_id": self._client}
        if self._refresh and time.monotonic() < self._refresh_until:
            try:
                self._take(form | {"grant_type": "refresh_token", "refresh_token": self._refresh})
                return
            except RetrieveError:
                self._refresh = ""
        self._take(form | {"grant_type": "password", "username": name, "password": password})

    def _take(self, form: dict[str, str]) -> None:
        asked = time.monotonic()
        try:
            answer = json.loads(self._web.text("POST", self._url, data=form, auth=no_account))
            token, lasts = answer["access_token"], float(answer.get("expires_in", 60))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RetrieveError(f"{shown(self._url)}: the answer holds no token") from None
        except RetrieveError as error:
            raise RetrieveError(
                f"{error}: no token; are user name and password right, and the terms accepted?"
            ) from None
        self._token = str(token)
        self._until = asked + max(lasts - EARLY, lasts / 2)
        self._refresh = str(answer.get("refresh_token") or "")
        lasts = float(answer.get("refresh_expires_in") or 0)
        self._refresh_until = asked + max(lasts - EARLY, lasts / 2)
