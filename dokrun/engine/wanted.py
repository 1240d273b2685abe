"""What a session shall be like, and the job that its container is made of."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace

from dokrun.api.pool import check_proxy
from dokrun.config import LOOPBACK, Settings
from dokrun.cost import Price
from dokrun.engine.prepare import Job, session_job
from dokrun.options import DEFAULT_TIMEOUT_S, Options
from dokrun.secret import Secret

# Where containers listen: below what systems give to whoever asks for any port.
_PORTS = range(20000, 30000)
# How long a container waits for a client that is not heard any more: as long as a laptop's lid may be closed by chance.
LEASE_S = 120.0


@dataclass(frozen=True)
class Asked:
    """What is said of a session, beside its options.

    Attributes:
        idle_s: how long its container waits for calls.
        workers: how many calls run at the same time; None is one on each GPU.
        reconnect: whether another container is made in place of one that has ended.
    """

    idle_s: float
    workers: int | None = None
    reconnect: bool = False


@dataclass(frozen=True)
class Wanted:
    """What a session shall be like.

    Attributes:
        plan: on which plan.
        options: of the image, the environment and so on; `timeout_s` is how long it may last.
        asked: what else is said of it.
        price: the plan's, where there is a `max_yen`.
        billed_s: how long its container waits at least, since that is paid for anyway.
    """

    plan: str
    options: Options
    asked: Asked
    price: Price | None = None
    billed_s: float = 0.0

    def job(self, settings: Settings) -> tuple[Job, Secret]:
        """Make the job of its next container, and the token that this is known by. Raises ConfigError."""
        if settings.listens_on not in LOOPBACK:
            check_proxy()
        told = {
            "host": settings.listens_on,
            "port": secrets.choice(_PORTS),
            "idle_s": self.asked.idle_s,
            "billed_s": self.billed_s,
            # A detached one waits for whoever attaches.
            "lease_s": None if self.options.detach else LEASE_S,
            "limit_s": self.options.timeout_s or DEFAULT_TIMEOUT_S,
            "workers": self.asked.workers,
        }
        # They are its functions': another task is another session.
        options = replace(self.options, retries=None)
        job = session_job(options.name or "session", self.plan, options, told)
        token = token_of(settings, job.id)
        sha256 = hashlib.sha256(token.reveal().encode()).hexdigest()
        return replace(job, session_sha256=sha256, price=self.price), token


def token_of(settings: Settings, job_id: str) -> Secret:
    """Tell the token of a session: whoever has the API key that made it can speak to it, on any machine."""
    key = settings.access_token_secret.reveal().encode()
    return Secret(hmac.digest(key, f"dokrun session {job_id}".encode(), "sha256").hex())
