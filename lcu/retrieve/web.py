"""HTTP: what may be asked of whom, what passes by itself, how long to wait.

Everything that is sent goes through `Web.open`. It speaks https only (http where the configured
catalogue itself is on this machine), verifies certificates, follows few redirects, and sends the
account's token to the hosts of the account alone, never after a redirect from another host. Texts
of errors hold no queries of addresses and no headers, for these may be secrets.
"""

from __future__ import annotations

import email.utils
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import tenacity
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError, ConnectionError, RequestException, Timeout
from urllib3.exceptions import HTTPError

import lcu
from lcu.config import LOOPBACK, Retrieve

# Attempts in a row that bring nothing before a file or a search is given up.
ATTEMPTS = 8

# Seconds: the longest pause between attempts, the longest that a server may ask for.
LONGEST_PAUSE = 60.0
LONGEST_WAIT = 900.0

CONNECT_TIMEOUT = 10.0
REDIRECTS = 5

# Answers in JSON: a page of 100 items has about 9 MB.
TEXT_LIMIT = 64 * 2**20

PASSING = {408, 425, 429, 500, 502, 503, 504}

Result = TypeVar("Result")


class RetrieveError(RuntimeError):
    """Something that cannot be fetched; names the address (without its query) and the reason."""


class PassingError(RetrieveError):
    """A fault that may pass; `after` is for how many seconds the server wants to be left alone."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class StoppedError(RuntimeError):
    """The user, or the system, wants the program to end."""


def no_account(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no credentials; without this requests would look for some in ~/.netrc."""
    return request


def shown(url: str) -> str:
    """Return an address without user, query and fragment: what messages and records may hold."""
    parts = _split(url)
    return f"{parts.scheme}://{_host(parts)}{parts.path}" if parts.scheme else parts.path


def host_of(url: str) -> str:
    """Return host and port of an address, in lower case."""
    return _host(_split(url))


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise RetrieveError("an address from the network is no address") from None
    return parts


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2].lower()


class Web:
    """The way to the network of one run; may be used by several threads.

    Attributes
    ----------
    stop : Event
        Set when the program should end: pauses end at once, and nothing is asked any more.
    account : Account or None
        Who gets tokens (see `credentials`).
    """

    def __init__(self, config: Retrieve, stop: threading.Event) -> None:
        self.stop = stop
        self.account: Any = None
        self.timeout = config.timeout
        self._plain = urlsplit(config.url).scheme == "http"
        self._session = requests.Session()
        self._session.auth = no_account
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers["User-Agent"] = f"lcu/{lcu.__version__}"
        # Sizes and check sums are of the file as it is.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.mount("https://", HTTPAdapter(pool_maxsize=2 * config.streams))
        self._session.mount("http://", HTTPAdapter(pool_maxsize=2 * config.streams))

    def allows(self, url: str) -> bool:
        """Tell whether an address may be asked at all."""
        parts = _split(url)
        plain = self._plain and parts.scheme == "http" and parts.hostname in LOOPBACK
        return (
            (parts.scheme == "https" or plain) and bool(parts.hostname) and "@" not in parts.netloc
        )

    def open(
        self, method: str, url: str, accept: tuple[int, ...] = (), **more: Any
    ) -> requests.Response:
        """Ask once; the answer's body is not read yet, and the caller closes it.

        Parameters
        ----------
        accept : tuple of int
            Status codes from 400 on that are no error here.

        Raises
        ------
        PassingError
            What another attempt may mend: no connection, 429, 5xx, a token that has expired.
        RetrieveError
            What it will not.
        """
        for _ in range(REDIRECTS + 1):
            if self.stop.is_set():
                raise StoppedError
            if not self.allows(url):
                raise RetrieveError(
                    f"{shown(url)} is refused: only https is spoken, and http with a catalogue on this machine"
                )
            response = self._ask(method, url, more)
            if not response.is_redirect:
                return self._judged(response, url, accept)
            response.close()
            target = urljoin(url, response.headers["location"])
            if host_of(target) != host_of(url):
                if method not in ("GET", "HEAD"):
                    raise RetrieveError(
                        f"{shown(url)} redirects a {method} to {shown(target)}: refused"
                    )
                more["auth"] = no_account
            url = target
        raise RetrieveError(f"{shown(url)}: more than {REDIRECTS} redirects")

    def _ask(self, method: str, url: str, more: dict[str, Any]) -> requests.Response:
        account = {"auth": self.account} if self.account else {}
        try:
            return self._session.request(
                method, url, stream=True, allow_redirects=False,
                timeout=(CONNECT_TIMEOUT, self.timeout), **account | more,
            )  # fmt: skip
        except (ConnectionError, Timeout, ChunkedEncodingError) as error:
            cause = _first_cause(error)
            if isinstance(cause, ssl.SSLError):
                raise RetrieveError(f"{shown(url)}: TLS: {cause}") from None
            raise PassingError(f"{shown(url)}: {_why(cause)}") from None
        except (RequestException, HTTPError, UnicodeError) as error:
            raise RetrieveError(f"{shown(url)}: {type(error).__name__}") from None

    def _judged(
        self, response: requests.Response, url: str, accept: tuple[int, ...]
    ) -> requests.Response:
        """Return a good answer; close any other, and say what it means."""
        status = response.status_code
        token = response.request.headers.get("Authorization")
        if status < 400 or status in accept:
            if token and self.account:
                self.account.worked()
            return response
        response.close()
        said = f"{shown(url)}: {status} {response.reason}"
        if status in PASSING:
            raise PassingError(said, _retry_after(response, said))
        if token and self.account and status == 401 and self.account.renews(token):
            raise PassingError(f"{said}: the token has expired")
        if token and status == 403:  # so a provider refuses one session too many
            raise PassingError(
                f"{said}: more sessions than the account may have, or no right to this file"
            )
        raise RetrieveError(said)

    def text(self, method: str, url: str, **more: Any) -> str:
        """Return the body of an answer, of TEXT_LIMIT bytes at most, after as many attempts as it needs."""
        return self.again(self._text, method, url, more)

    def _text(self, method: str, url: str, more: dict[str, Any]) -> str:
        with self.open(method, url, **more) as response:
            try:
                content = b"".join(_bounded(response, TEXT_LIMIT, url))
                return content.decode("utf-8")
            except UnicodeDecodeError:
                raise RetrieveError(f"{shown(url)}: the answer is no UTF-8") from None
            except (RequestException, HTTPError, OSError) as error:
                raise PassingError(f"{shown(url)}: {_why(_first_cause(error))}") from None

    def again(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Do `work`, again after a pause where its fault may pass; raise the last fault."""
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PassingError),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=_pause,
            sleep=tenacity.sleep_using_event(self.stop),
            reraise=True,
        )
        return attempts(work, *arguments)


def _bounded(response: requests.Response, limit: int, url: str) -> Iterator[bytes]:
    received = 0
    for chunk in response.iter_content(2**16):
        received += len(chunk)
        if received > limit:
            raise RetrieveError(f"{shown(url)}: the answer has more than {limit} bytes")
        yield chunk


_jitter = tenacity.wait_random_exponential(multiplier=1, max=LONGEST_PAUSE)


def _pause(state: tenacity.RetryCallState) -> float:
    return max(_jitter(state), state.outcome.exception().after)


def _retry_after(response: requests.Response, said: str) -> float:
    """Return the seconds that the server asks for, as a number or as a date; 0 where it does not."""
    stated = response.headers.get("Retry-After", "").strip()
    if stated.isdigit():
        seconds = float(stated)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(stated).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    if seconds > LONGEST_WAIT:
        raise RetrieveError(
            f"{said}: the server wants {math.ceil(seconds / 60)} minutes of rest; come back then"
        )
    return max(seconds, 0.0)


def _first_cause(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error


def _why(error: BaseException) -> str:
    """Say what went wrong; texts of other errors may hold the whole address."""
    name = type(error).__name__
    return f"{name}: {error}" if type(error).__module__ in ("builtins", "socket") else name
