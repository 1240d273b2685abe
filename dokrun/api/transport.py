"""The way to the service: one seam, `handle_request(Request) -> Response`, which the network and the retries share.

What may have been received is never repeated if it creates something; the rest is tried again a few times.
"""

from __future__ import annotations

import email.utils
import logging
import random
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import httpx

from dokrun.config import LOOPBACK

_log = logging.getLogger("dokrun.api")
# Not the module's own numbers: whoever seeds those wants to have them all.
_random = random.Random()  # noqa: S311 - no secret

# Repeating one of these leaves the service as the first time did (RFC 9110, section 9.2.2).
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
# What an answer says of its body as it travels.
_OF_THE_WAY = frozenset({"content-encoding", "content-length", "transfer-encoding"})
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
# Raised before a byte of the request has left this machine.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@dataclass(frozen=True)
class Backoff:
    """How often and how long to wait before a request is repeated.

    `attempts` counts the first one; pauses double from `first_s` up to `longest_s`, each shortened by chance by up to a
    half so that clients do not ask in step. A `Retry-After` of the service's counts if it is at most `longest_s`;
    if it is longer, the answer is handed on at once.
    """

    attempts: int = 5
    first_s: float = 0.25
    longest_s: float = 8.0
    sleep: Callable[[float], object] = time.sleep

    def pause_s(self, attempt: int) -> float:
        """Tell how long to wait after the attempt of this number, counted from 1."""
        pause_s = min(self.longest_s, self.first_s * 2.0 ** (attempt - 1))
        return pause_s * _random.uniform(0.5, 1.0)


class RetryTransport(httpx.BaseTransport):
    """Repeats what may be repeated, on top of another transport."""

    def __init__(self, inner: httpx.BaseTransport, backoff: Backoff) -> None:
        self._inner = inner
        self._backoff = backoff

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, again if need be; the last answer or error is the outcome."""
        for attempt in range(1, self._backoff.attempts):
            try:
                response = _timed(self._inner, request)
            except httpx.TransportError as error:
                if request.method not in _IDEMPOTENT and not isinstance(error, NOT_SENT):
                    raise
                pause_s: float | None = self._backoff.pause_s(attempt)
            else:
                pause_s = self._pause_after(request, response, attempt)
                if pause_s is None:
                    return response
                response.close()
            self._backoff.sleep(pause_s or 0.0)
        return _timed(self._inner, request)

    def _pause_after(self, request: httpx.Request, response: httpx.Response, attempt: int) -> float | None:
        if request.method not in _IDEMPOTENT or response.status_code not in _PASSING:
            return None
        asked_s = retry_after_s(response.headers.get("Retry-After"))
        if asked_s is None:
            return self._backoff.pause_s(attempt)
        return asked_s if asked_s <= self._backoff.longest_s else None

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def goes_straight(host: str) -> bool:
    """Tell whether no proxy is asked for a host: none leads to this machine's own loopback."""
    return host in LOOPBACK or bool(urllib.request.proxy_bypass(host))


class NetworkTransport(httpx.BaseTransport):
    """The network, through the proxy that the environment names for a host, or straight where it names none."""

    def __init__(self) -> None:
        self._straight = httpx.HTTPTransport()
        self._proxied = {
            scheme: httpx.HTTPTransport(proxy=proxy if "://" in proxy else f"http://{proxy}")
            for scheme, proxy in urllib.request.getproxies().items()
            if scheme in ("http", "https")
        }
        self._closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        host = request.url.host
        way = self._straight if goes_straight(host) else self._proxied.get(request.url.scheme, self._straight)
        response = way.handle_request(request)
        if self._closed:
            # Its connection was still being made then, and would be kept for ever.
            assert isinstance(response.stream, httpx.SyncByteStream)  # noqa: S101 - as it comes from a transport
            response.stream = _Last(response.stream, response.extensions["network_stream"].close)
        return response

    def close(self) -> None:
        """Close the connections, those that are just being made as soon as their answers have come."""
        self._closed = True
        for transport in (self._straight, *self._proxied.values()):
            transport.close()


class _Last(httpx.SyncByteStream):
    """The body of an answer after which its connection is closed."""

    def __init__(self, body: httpx.SyncByteStream, close: Callable[[], object]) -> None:
        self._body = body
        self._close = close

    def __iter__(self) -> Iterator[bytes]:
        yield from self._body

    def close(self) -> None:
        self._body.close()
        self._close()


class WholeBodyTransport(httpx.BaseTransport):
    """Reads each answer to its end before it hands it on, so that a body which breaks can be asked for again.

    Neither its size, unpacked, nor the time that it takes is without limit: a byte a second beats every timeout of a
    single read, and a packed answer its length on the way.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport,
        *,
        steady: Callable[[], float],
        limit_bytes: int = 64 << 20,
        limit_s: float = 120.0,
    ) -> None:
        self._inner = inner
        self._steady = steady
        self._limit_bytes = limit_bytes
        self._limit_s = limit_s

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read its answer."""
        deadline = self._steady() + self._limit_s
        body = bytearray()
        with closing(self._inner.handle_request(request)) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > self._limit_bytes:
                    raise httpx.RemoteProtocolError(f"more than {self._limit_bytes} bytes came", request=request)
                if self._steady() > deadline:
                    raise httpx.ReadTimeout(f"it took more than {self._limit_s:g} s", request=request)
        headers = [pair for pair in response.headers.multi_items() if pair[0] not in _OF_THE_WAY]
        return httpx.Response(response.status_code, headers=headers, stream=httpx.ByteStream(bytes(body)))

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def retry_after_s(header: str | None) -> float | None:
    """Read a `Retry-After`, which is a number of seconds or a date; None where there is none that can be read."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _timed(inner: httpx.BaseTransport, request: httpx.Request) -> httpx.Response:
    """Send a request and log it without its query, which may be a signature."""
    started = time.perf_counter()
    outcome: object = "no answer"
    try:
        response = inner.handle_request(request)
        outcome = response.status_code
    finally:
        milliseconds = (time.perf_counter() - started) * 1000
        _log.debug("%s %s -> %s in %.0f ms", request.method, request.url.path, outcome, milliseconds)
    return response
