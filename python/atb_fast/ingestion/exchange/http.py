"""GET with retries: what every client of an exchange needs, and none of their meanings."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import requests

from atb_fast.errors import FetchError

log = logging.getLogger(__name__)

T = TypeVar("T")
S = TypeVar("S")

#: Downloads at a time: enough to hide the way there and back, too few to bother anyone.
WORKERS = 4
#: Seconds after which a waiting main thread looks whether it was interrupted.
_HEARTBEAT = 0.2
ATTEMPTS = 4
#: Seconds before the second attempt; twice that before the third, and so on.
FIRST_PAUSE = 0.5
#: Seconds. A server may ask for hours; a person at a terminal would rather be told.
LONGEST_WAIT = 120.0
_TIMEOUT = (10.0, 20.0)  # to connect, and between two bytes


@dataclass(frozen=True)
class Endpoints:
    """Where the sources are. Each can be a mirror or a local server.

    Attributes:
        binance: REST interface of the exchange.
        binance_fallback: The same for market data only, used where the first is restricted.
        archive: Daily files; `file:///path` reads a local copy of its tree.
        fng: Fear & Greed index.
    """

    binance: str = "https://api.binance.com"
    binance_fallback: str = "https://data-api.binance.vision"
    archive: str = "https://data.binance.vision"
    fng: str = "https://api.alternative.me"

    @classmethod
    def from_environment(cls) -> Endpoints:
        """Return the defaults with `ATB_FAST_BINANCE_URL` and so on above them."""
        given = {
            item.name: os.environ.get(f"ATB_FAST_{item.name.upper()}_URL", "").rstrip("/")
            for item in fields(cls)
        }
        return cls(**{name: url for name, url in given.items() if url})


class MalformedError(Exception):
    """An answer that is not what it should be; asking again may help."""


class Http:
    """One connection per thread and host; every thread waits when one is told to slow down.

    Use as a context: leaving it ends the waiting of other threads.

    Args:
        wait: Waits for so many seconds and returns whether to give up; for tests.
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

        Connections that fail, answers that are cut short, 5xx and `MalformedError` are tried
        again, up to `ATTEMPTS` times with growing pauses; 429 as long as the server says, at most
        `LONGEST_WAIT` seconds.

        Args:
            url: Without a query.
            parse: Gets the response of status 200 or one of `accepted`, with its whole body.
            params: The query.
            accepted: Other statuses that `parse` understands.

        Raises:
            FetchError: No answer that can be used; the message names the URL and the reason.
        """
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(1.0, 1.5))
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
                reason = "the answer was cut short"
                continue
            except requests.RequestException as error:
                raise FetchError(f"{url}: {_short(error)}; check the address") from error
            reason = f"HTTP {response.status_code}"
            if response.status_code == 429:
                self.pause(_retry_after(response))
            elif response.status_code == 403:
                raise FetchError(
                    f"{url}: refused by a firewall (HTTP 403); wait a few minutes, or use another "
                    "network"
                )
            elif response.status_code == 418:
                raise FetchError(f"{url}: banned for too many requests (HTTP 418)")
            elif response.status_code < 500:
                raise FetchError(f"{url}: HTTP {response.status_code}: {response.text[:200]!r}")
        raise FetchError(
            f"{url}: {reason}, {ATTEMPTS} times in a row; try again later, see whether the address "
            "can be reached, or use --offline with what is stored"
        )

    def pause(self, seconds: float) -> None:
        """Let every thread wait before its next request."""
        seconds = min(seconds, LONGEST_WAIT)
        log.info("asked to slow down: waiting %.0f s", seconds)
        with self._lock:
            self._resume_at = max(self._resume_at, time.monotonic() + seconds)

    def parallel(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """Yield `function(item)` in order, `WORKERS` at a time; the first error ends them all."""
        pool = ThreadPoolExecutor(WORKERS)
        try:
            futures = [pool.submit(function, item) for item in items]
            for future in futures:
                # A signal may reach another thread, and does not wake one that waits without end.
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
        while until < self._resume_at:  # it may move on while this thread waits
            until = self._resume_at
            self._sleep(until - time.monotonic())

    def _sleep(self, seconds: float) -> None:
        if self._stopped.is_set() or (seconds > 0 and self._wait(seconds)):
            raise FetchError("stopped")


def _retry_after(response: requests.Response) -> float:
    try:
        return max(1.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        return 10.0


def _short(error: BaseException) -> str:
    """Return what the system said, without the layers that it went through."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        layers = (getattr(inner, "reason", None), *inner.args, inner.__cause__, inner.__context__)
        inner = next((layer for layer in layers if isinstance(layer, BaseException)), None)
    return str(error)
