"""How registries are asked over their HTTP API v2: with a token where they want one, again where that helps.

This is the second door of httpx: `dokrun.api` is DOK's alone, with DOK's credentials, errors and retries, and the doors
never know each other.

The protocol: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar, cast

import httpx
import msgspec

from dokrun import redact
from dokrun.errors import RegistryError
from dokrun.image.credentials import Credentials
from dokrun.image.reference import Reference

T = TypeVar("T")

redact.guard_logs()

_ACCEPT = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json, */*"
)
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_LARGEST_BYTES = 8 << 20
_FIRST_PAUSE_S = 0.25

_PARAMETER = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


@dataclass(frozen=True)
class Answer:
    """What came: the status, the headers, the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """Asks registries, and remembers what they want to be asked with.

    Credentials are only ever sent to the registry's own host and to the token service that it names, over https.

    Args:
        credentials: tells those of a host, or None.
        transport: what sends the requests, in place of the network.
        attempts: how often a request is sent before its failure counts.
        limit_s: the longest that one question may take, in seconds, with all its requests.
        request_s: the longest that one request may take.
        sleep: waits between attempts.
        clock: tells the seconds that have passed.
    """

    def __init__(
        self,
        credentials: Callable[[str], Credentials | None],
        transport: httpx.BaseTransport | None = None,
        *,
        attempts: int = 4,
        limit_s: float = 60.0,
        request_s: float = 15.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._attempts = attempts
        self._limit_s = limit_s
        self._request_s = min(request_s, limit_s)
        self._sleep = sleep
        self._clock = clock
        self._deadline = 0.0
        # What a registry has asked for, by host and repository: sent at once the next time.
        self._authorizations: dict[tuple[str, str], str] = {}
        # No proxy leads to this machine's own loopback.
        straight: dict[str, httpx.BaseTransport | None] = dict.fromkeys(
            ("all://localhost", "all://127.0.0.1", "all://[::1]")
        )
        self._http = httpx.Client(
            transport=transport,
            mounts=None if transport else straight,
            timeout=self._request_s,
            headers={"User-Agent": "dokrun", "Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def begin(self) -> None:
        """Give the next question its time."""
        self._deadline = self._clock() + self._limit_s

    def ask(self, method: str, reference: Reference, path: str, read: Callable[[Answer], T]) -> T | None:
        """Send a request, again where its answer makes no sense; None where there is no such thing.

        Args:
            method: GET or HEAD.
            reference: the image that this is about.
            path: what is asked for, below the image's repository.
            read: makes of an answer whose status is 200 what is wanted; raises RegistryError where it cannot.

        Raises:
            RegistryError: the registry refused, or gave no answer that can be used.
        """
        url = httpx.URL(f"{reference.base_url}/{path}")
        problem = broken(reference, "none came in time")
        for _ in self._tries():
            answer = self._authorized(method, url, reference)
            if answer.status == httpx.codes.NOT_FOUND:
                return None
            if answer.status != httpx.codes.OK:
                raise _refused(reference, answer.status)
            try:
                return read(answer)
            except RegistryError as error:
                problem = error
        raise problem

    def _authorized(self, method: str, url: httpx.URL, reference: Reference) -> Answer:
        """Send a request, with what the registry wants to be asked with."""
        key = (reference.host, reference.repository)
        answer = self._send(method, url, reference, self._authorizations.get(key))
        if answer.status == httpx.codes.UNAUTHORIZED:
            # Of a token that was good before as well: it lives for minutes.
            authorization = self._authorize(reference, answer.headers.get("WWW-Authenticate", ""))
            if authorization is not None:
                self._authorizations[key] = authorization
                answer = self._send(method, url, reference, authorization)
        return answer

    def _authorize(self, reference: Reference, challenge: str) -> str | None:
        """Make the header that answers a registry's challenge; None where nothing would."""
        scheme, _, rest = challenge.partition(" ")
        credentials = self._credentials(reference.host)
        if scheme.lower() == "basic":
            return None if credentials is None else _basic(credentials)
        if scheme.lower() != "bearer":
            return None
        told = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
        realm = _url(told.get("realm", ""), reference)
        own = httpx.URL(reference.base_url)
        if realm.scheme != "https" and _origin(realm) != _origin(own):
            raise broken(reference, f"its token service {realm.host} is not reached over https")
        query = {
            "service": told.get("service"),
            "scope": told.get("scope") or f"repository:{reference.repository}:pull",
        }
        realm = realm.copy_merge_params({name: value for name, value in query.items() if value})
        answer = self._send("GET", realm, reference, None if credentials is None else _basic(credentials))
        if answer.status != httpx.codes.OK:
            raise _refused(reference, answer.status)
        token = decode(answer.body, _Token, reference)
        return f"Bearer {token.token or token.access_token}"

    def _send(self, method: str, url: httpx.URL, reference: Reference, authorization: str | None) -> Answer:
        """Send a request, follow where it leads without the credentials, and read the answer's body."""
        headers = {"Accept": _ACCEPT}
        if authorization is not None:
            headers["Authorization"] = authorization
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._repeated(method, url, headers, reference)
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            headers.pop("Authorization", None)
            led = _url(location, reference, base=url)
            if url.scheme == "https" and led.scheme != "https":
                raise broken(reference, "it leads from https to an address without")
            url = led
        raise broken(reference, f"it redirects more than {_MOST_REDIRECTS} times")

    def _tries(self) -> Iterator[int]:
        """Count attempts, with growing pauses between them, for as long as the question has time."""
        yield 1
        for attempt in range(2, self._attempts + 1):
            pause_s = _FIRST_PAUSE_S * 2.0 ** (attempt - 2)
            if self._clock() + pause_s > self._deadline:
                return
            self._sleep(pause_s)
            yield attempt

    def _repeated(self, method: str, url: httpx.URL, headers: dict[str, str], reference: Reference) -> Answer:
        problem = ""
        for attempt in self._tries():
            try:
                answer = self._once(method, url, headers, reference)
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            else:
                if answer.status not in _PASSING or attempt == self._attempts:
                    return answer
                problem = f"HTTP status {answer.status}"
        # Outside the handler: httpx's error carries the request, with its query and its credentials.
        raise RegistryError(f"the registry {reference.host} gave no answer ({problem})", host=reference.host)

    def _once(self, method: str, url: httpx.URL, headers: dict[str, str], reference: Reference) -> Answer:
        body = bytearray()
        # A byte now and then would beat a limit for each read.
        deadline = min(self._deadline, self._clock() + self._request_s)
        with closing(self._http.send(self._http.build_request(method, url, headers=headers), stream=True)) as response:
            for chunk in cast("httpx.SyncByteStream", response.stream):
                body += chunk
                if len(body) > _LARGEST_BYTES:
                    raise broken(reference, f"more than {_LARGEST_BYTES >> 20} MiB came")
                if self._clock() > deadline:
                    raise httpx.ReadTimeout("its answer does not end")
        return Answer(response.status_code, response.headers, bytes(body))


def _refused(reference: Reference, status: int) -> RegistryError:
    message = f"the registry {reference.host} refused to tell of {reference.repository} (HTTP status {status})"
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        message += (
            "; check the name, and that your credentials may read it: set DOKRUN_REGISTRY_USERNAME and "
            "DOKRUN_REGISTRY_PASSWORD for the registry that DOKRUN_REGISTRY names; for another run: "
            f"docker login {reference.host}"
        )
    elif status in _PASSING:
        message += "; wait a minute, then try again"
    return RegistryError(message, host=reference.host)


def decode(content: bytes, kind: type[T], reference: Reference) -> T:
    """Read what a registry gave as JSON. Raises RegistryError."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    # Outside the handler: what cannot be read may be a token.
    raise broken(reference, "what came cannot be read")


def _basic(credentials: Credentials) -> str:
    request = httpx.Request("GET", "https://registry.invalid/")
    flow = httpx.BasicAuth(credentials.username, credentials.password.reveal()).auth_flow(request)
    return next(flow).headers["Authorization"]


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _url(text: str, reference: Reference, *, base: httpx.URL | None = None) -> httpx.URL:
    try:
        url = httpx.URL(text) if base is None else base.join(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise broken(reference, "it names an address that is none")
    return url


def broken(reference: Reference, problem: str) -> RegistryError:
    """Make the error of an answer that makes no sense."""
    return RegistryError(
        f"the registry {reference.host} gave an answer that cannot be used: {problem}", host=reference.host
    )
