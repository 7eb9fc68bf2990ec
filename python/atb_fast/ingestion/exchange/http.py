"""HTTP GET with retries and rate limits, for all clients of this package."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, fields
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from atb_fast.errors import FetchError
from atb_fast.ingestion.exchange.errors import UnreachableError

log = logging.getLogger(__name__)

T = TypeVar("T")
S = TypeVar("S")

#: Parallel downloads: enough to hide latency, but few enough not to overload a server.
WORKERS = 4
#: Seconds between checks for an interrupt while the main thread waits.
_HEARTBEAT = 0.2
ATTEMPTS = 4
#: Seconds before the second attempt; doubled for each further one.
FIRST_PAUSE = 0.5
#: Longest pause in seconds. A server may ask for hours, but a user waits at the terminal.
LONGEST_WAIT = 120.0
_TIMEOUT = (10.0, 20.0)  # seconds to connect, and seconds between two bytes


@dataclass(frozen=True)
class Endpoints:
    """The addresses of the sources. Each can be a mirror or a local server.

    Attributes:
        binance: REST API of the exchange.
        binance_fallback: REST API for market data only, used where the first one is restricted.
        archive: Daily files; `file:///path` for a local copy of the tree.
        fng: Fear & Greed index.
    """

    binance: str = "https://api.binance.com"
    binance_fallback: str = "https://data-api.binance.vision"
    archive: str = "https://data.binance.vision"
    fng: str = "https://api.alternative.me"

    @classmethod
    def from_environment(cls) -> Endpoints:
        """Return the defaults, overridden by `ATB_FAST_BINANCE_URL` and its siblings.

        Raises:
            FetchError: A variable is not a URL that can be used.
        """
        urls = {item.name: cls.given(item.name) or str(item.default) for item in fields(cls)}
        for name, url in urls.items():
            if expected := cls.expected(name, url):
                raise FetchError(f"{cls.variable(name)} is {url!r}, expected {expected}")
        return cls(**urls)

    @staticmethod
    def variable(name: str) -> str:
        """Return the variable that overrides the address `name`."""
        return f"ATB_FAST_{name.upper()}_URL"

    @classmethod
    def given(cls, name: str) -> str:
        """Return the address `name` in the environment, or an empty string."""
        return os.environ.get(cls.variable(name), "").rstrip("/")

    @staticmethod
    def expected(name: str, url: str) -> str:
        """Return what the address `name` has to be, or an empty string if `url` can be used."""
        schemes = ["https://", "http://", *(["file:///"] if name == "archive" else [])]
        with suppress(ValueError):  # such as http://[::1
            found = urlsplit(url)
            if url.startswith(tuple(schemes)) and (found.hostname or found.scheme == "file"):
                return ""
        return f"a URL that starts with {' or '.join(schemes)}"


class MalformedError(Exception):
    """A response with unexpected content. A retry may help."""


class Http:
    """Sends requests, with one connection per thread and host.

    If a server throttles one thread, all of them wait. Use it as a context manager; on exit,
    waiting threads wake up and stop.

    Args:
        wait: Waits for the given seconds, and returns whether to give up. Tests replace it.
    """

    def __init__(self, wait: Callable[[float], bool] | None = None) -> None:
        self.requests = 0
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._lock = threading.Lock()
        self._resume_at = 0.0
        self._local = threading.local()
        self._sessions: list[requests.Session] = []

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for session in self._sessions:
            session.close()

    def get(
        self,
        url: str,
        parse: Callable[[requests.Response], T],
        *,
        params: Mapping[str, Any] | None = None,
        accepted: tuple[int, ...] = (),
    ) -> T:
        """Return `parse(response)`.

        After failed connections, truncated responses, 5xx and `MalformedError`, the request is
        retried, with growing pauses and `ATTEMPTS` attempts in total. After a 429, the pause is the
        one that the server asks for, at most `LONGEST_WAIT` seconds.

        Args:
            url: Address without a query.
            parse: Called with the complete response of status 200 or one of `accepted`.
            params: The query parameters.
            accepted: Other statuses that `parse` handles.

        Raises:
            FetchError: The address is wrong; the message names it.
            UnreachableError: There is no usable response; the message also says why.
        """
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                jitter = random.uniform(1.0, 1.5)  # noqa: S311 - no secret depends on it
                self._sleep(FIRST_PAUSE * 2 ** (attempt - 1) * jitter)
            self._wait_for_resume()
            try:
                response = self._session().get(url, params=params, timeout=_TIMEOUT)
                if response.status_code == 200 or response.status_code in accepted:
                    return parse(response)
            except MalformedError as error:
                reason = str(error)
                continue
            except (requests.ConnectionError, requests.Timeout) as error:
                reason = _short(error)
                continue
            except requests.exceptions.ChunkedEncodingError:
                reason = "the response was truncated"
                continue
            except requests.RequestException as error:
                raise FetchError(f"{url}: {_short(error)}; check the address") from error
            reason = f"HTTP {response.status_code}"
            if response.status_code == 429:
                self.pause(_retry_after(response))
            elif response.status_code == 403:
                raise UnreachableError(
                    f"{url}: blocked by a firewall (HTTP 403); wait a few minutes, or use another "
                    "network"
                )
            elif response.status_code == 418:
                raise UnreachableError(
                    f"{url}: banned for too many requests (HTTP 418); try again later"
                )
            elif response.status_code < 500:
                raise FetchError(
                    f"{url}: HTTP {response.status_code}: {response.text[:200]!r}; check the "
                    "address"
                )
        raise UnreachableError(
            f"{url}: {reason}, {ATTEMPTS} times in a row; check the network and the address, try "
            "again later, or pass --offline to use only stored data"
        )

    def pause(self, seconds: float) -> None:
        """Make all threads wait before their next request."""
        seconds = min(seconds, LONGEST_WAIT)
        log.info("rate limit: waiting %.0f s", seconds)
        with self._lock:
            self._resume_at = max(self._resume_at, time.monotonic() + seconds)

    def parallel(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """Yield `function(item)` in order, `WORKERS` in parallel. The first error stops all."""
        pool = ThreadPoolExecutor(WORKERS)
        try:
            futures = [pool.submit(function, item) for item in items]
            for future in futures:
                # An interrupt would not wake this thread if it waited without a timeout.
                while not wait([future], _HEARTBEAT).done:
                    pass
                yield future.result()
        except BaseException:
            self._stopped.set()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _session(self) -> requests.Session:
        with self._lock:
            self.requests += 1
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            self._sessions.append(session)
        return session

    def _wait_for_resume(self) -> None:
        until = 0.0
        while until < self._resume_at:  # another thread may extend it meanwhile
            until = self._resume_at
            self._sleep(until - time.monotonic())

    def _sleep(self, seconds: float) -> None:
        if self._stopped.is_set() or (seconds > 0 and self._wait(seconds)):
            raise FetchError("stopped")


def date_of(response: requests.Response) -> int | None:
    """Return the Date header in milliseconds since 1970; None if it is missing or invalid."""
    try:
        return round(parsedate_to_datetime(response.headers.get("Date", "")).timestamp() * 1000)
    except ValueError:
        return None


def _retry_after(response: requests.Response) -> float:
    try:
        return max(1.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        return 10.0


def _short(error: BaseException) -> str:
    """Return the reason that the operating system gives, without the exceptions around it."""
    if isinstance(error, requests.Timeout):
        return "timed out"
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        layers = (getattr(inner, "reason", None), *inner.args, inner.__cause__, inner.__context__)
        inner = next((layer for layer in layers if isinstance(layer, BaseException)), None)
    return str(error)
