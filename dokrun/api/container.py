"""What a session's container is asked over its task's public address; nothing is believed that it does not vouch for.

Every request may be repeated: the container does nothing twice, and its answers are the same. So whatever comes in
place of an answer that it vouches for, a 503 of the service's proxy, a cut, a redirect, a stranger's word, is none.
"""

from __future__ import annotations

import itertools
import json
import secrets
from typing import Any

import httpx

from dokrun import errors, redact
from dokrun.api.pool import Answer, Broken, NotConnected, Pool
from dokrun.config import LOOPBACK
from dokrun.secret import Secret
from dokrun.shim import seal

_ERRORS, _UNAUTHORIZED, _SERVER_ERRORS = 400, 401, 500
# How long the container may take to answer where it is not asked to wait.
PATIENCE_S = 30.0

Body = bytes | memoryview | dict[str, Any]


class Unvouched(errors.NoAnswer):
    """An answer came that the container does not vouch for; `status` is what it says it is."""

    def __init__(self, message: str, *, path: str = "", status: int = 0) -> None:
        super().__init__(message, method="POST", path=path)
        self.status = status


class Container:
    """Speaks to one container, as one speaker, from any thread.

    Args:
        url: the task's public address.
        token: what shows that this is its client.

    Raises:
        InvalidAnswer: the token may not be shown there: it is no address, or one that everybody on the way can read.
    """

    def __init__(self, url: str, token: Secret) -> None:
        self._url = _safe(url)
        self._token = token
        self._counts = itertools.count(1)
        self._speaker = ""
        self._key = b""
        self._pool = Pool(self._url)

    def hello(self) -> None:
        """Show the token. Raises NoAnswer, and Unauthorized where the container does not know it."""
        nonce = secrets.token_hex(16)
        answer = self._send("/hello", b"", {seal.NONCE: nonce}, PATIENCE_S, token=self._token)
        if answer.status == _UNAUTHORIZED:
            raise errors.Unauthorized("the session does not know this client", method="POST", path="/hello", status=401)
        try:
            told = json.loads(bytes(answer.body))
            speaker, ours = str(told["speaker"]), str(told["nonce"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _unvouched("/hello", answer) from None
        key = seal.key_of(self._token.reveal(), speaker, nonce, ours)
        self._check(key, 0, "/hello", answer)
        self._speaker, self._key = speaker, key

    def ask(self, path: str, body: Body = b"", *, wait_s: float = 0.0, digest: str | None = None) -> bytearray:
        """Ask something that may take `wait_s` seconds; `digest` is vouched for, or that of the body.

        Raises:
            NotSent: the container cannot have heard it.
            NoAnswer: no answer came, or (`Unvouched`) one that is not the container's.
            Refused: it does not do that; what its words are, is in `error_msg`.
        """
        answered = self._answered(path, body, PATIENCE_S + wait_s, digest=digest)
        return answered if isinstance(answered, bytearray) else bytearray(answered)

    def fill(self, path: str, into: memoryview) -> int:
        """Ask for some bytes, and have them from the beginning of `into` on. Tells how many. Raises as `ask` does."""
        answered = self._answered(path, b"", PATIENCE_S, into=into)
        count = min(len(answered), len(into))
        if isinstance(answered, bytearray):  # it could not be known that there was room
            into[:count] = answered[:count]
        return count

    def _answered(
        self, path: str, body: Body, timeout_s: float, *, digest: str | None = None, into: memoryview | None = None
    ) -> bytearray | memoryview:
        content = json.dumps(body).encode() if isinstance(body, dict) else memoryview(body)
        digest, count = seal.digest(content) if digest is None else digest, next(self._counts)
        headers = {
            seal.SPEAKER: self._speaker,
            seal.COUNT: str(count),
            seal.DIGEST: digest,
            seal.MAC: seal.of_request(self._key, path, count, digest, len(content)),
        }
        answer = self._send(path, content, headers, timeout_s, into=into)
        self._check(self._key, count, path, answer)
        if answer.status >= _ERRORS:
            words = bytes(answer.body).decode(errors="replace")
            kind = errors.ServerError if answer.status >= _SERVER_ERRORS else errors.BadRequest
            message = f"the session refused {path.split('/')[1]}: {words}"
            raise kind(message, method="POST", path=path, status=answer.status, error_msg=words)
        return answer.body

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _check(self, key: bytes, count: int, path: str, answer: Answer) -> None:
        wanted = seal.of_answer(key, count, answer.status, seal.digest(answer.body), len(answer.body))
        if not seal.alike(wanted, answer.fields.get(seal.MAC.lower(), "")):
            raise _unvouched(path, answer)

    def _send(
        self,
        path: str,
        content: bytes | memoryview,
        headers: dict[str, str],
        timeout_s: float,
        *,
        token: Secret | None = None,
        into: memoryview | None = None,
    ) -> Answer:
        kind: type[errors.NoAnswer]
        # No local variable holds the token: some show those with a traceback.
        try:
            if token is None:
                return self._pool.post(path, content, headers, timeout_s, into)
            return self._pool.post(path, content, {**headers, seal.TOKEN: seal.BEARER + token.reveal()}, timeout_s)
        except NotConnected as error:
            kind, told = errors.NotSent, str(error)
        except Broken as error:
            kind, told = errors.NoAnswer, str(error)
        raise kind(f"no answer from the session ({redact.text(told)})", method="POST", path=path)


def _safe(url: str) -> str:
    try:
        read = httpx.URL(url)
    except httpx.InvalidURL:
        raise errors.InvalidAnswer("the task's address is not a URL") from None
    if read.scheme != "https" and read.host not in LOOPBACK:
        raise errors.InvalidAnswer(f"the task's address is not https, so no token is shown there: {redact.url(read)}")
    return url.rstrip("/")


def _unvouched(path: str, answer: Answer) -> Unvouched:
    message = f"the answer is not the session's (HTTP status {answer.status})"
    return Unvouched(message, path=path, status=answer.status)
