"""Whether all that dokrun needs is there and works: each thing is tried, and nothing of that stays."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from dokrun import config, errors, keys, state
from dokrun.api import Client
from dokrun.api.clock import REFUSED_FROM_S, WARNED_FROM_S
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings, RegistrySettings, Settings
from dokrun.engine.images import default_image
from dokrun.engine.registries import credentials_of, known_of
from dokrun.image.build import engine
from dokrun.image.reference import Reference
from dokrun.image.registry import Registry

State = Literal["ok", "wrong", "warning", "not needed"]

# What is only looked at is not waited for any longer.
_BRIEFLY_S = 15.0


@dataclass(frozen=True)
class Check:
    """What was found out about one thing, and what to do if it is wrong."""

    name: str
    state: State
    told: str
    advice: str = ""


def examine(profile: str | None = None, load: Callable[[str | None], Settings] = config.load) -> Iterator[Check]:
    """Try one thing after another.

    Args:
        profile: whose settings.
        load: reads them.
    """
    yield _versions()
    try:
        settings = load(profile)
    except errors.ConfigError as error:
        yield Check("settings", "wrong", str(error))
        yield _docker(needed=False)
        return
    yield Check("settings", "ok", f"the profile {settings.profile} ({settings.source['profile']})")
    yield _state_folder(settings)
    if settings.profile == config.LOCAL:
        yield _emulator()
        yield Check(
            "account", "not needed", "on the profile local calls run on the emulator, without a GPU or a charge"
        )
    else:
        yield from _of_service(settings)
    yield _docker(needed=settings.registry is not None)


def _of_service(settings: Settings) -> Iterator[Check]:
    with Client(settings.access_token, settings.access_token_secret, base_url=settings.api_url) as client:
        yield from _account(client)
        yield _clock(client)
        yield _tasks(client)
        yield _bucket(settings.bucket)
        yield from _registry(settings, client)
        yield _image(settings)


def _versions() -> Check:
    told = f"dokrun {version('dokrun')}, Python {platform.python_version()}, cloudpickle {version('cloudpickle')}"
    return Check("versions", "ok", told)


def _state_folder(settings: Settings) -> Check:
    folder = settings.state_dir
    if not folder.exists():
        return Check("state folder", "ok", f"{folder} will be made")
    try:
        state.private(folder)
    except errors.ConfigError as error:
        return Check("state folder", "wrong", str(error))
    return Check("state folder", "ok", str(folder))


def _emulator() -> Check:
    try:
        import dokrun.emulator  # noqa: F401 - whether it can be
    except ImportError as error:
        return Check("emulator", "wrong", f"it needs more packages ({error.name})", "pip install 'dokrun[local]'")
    return Check("emulator", "ok", "its packages are installed")


def _account(client: Client) -> Iterator[Check]:
    try:
        account = client.auth.get().account
    except errors.Unauthorized as error:
        make = "make an API key in Sakura Cloud's control panel, and set it: dokrun init"
        yield Check("credentials", "wrong", str(error), make)
        return
    except errors.ApiError as error:
        yield Check("credentials", "wrong", str(error), "look at the network, at DOKRUN_API_URL and at the proxy")
        return
    yield Check("credentials", "ok", f"the account {account.account_name or account.account_id}" if account else "")
    if account is not None and account.tos_agreed_at is None:
        yield Check("terms of service", "wrong", "nobody has agreed to them yet", "dokrun account agree")
    elif account is not None and account.tos_agreed_at is not None:
        yield Check("terms of service", "ok", f"agreed to on {account.tos_agreed_at:%Y-%m-%d}")


def _clock(client: Client) -> Check:
    off_s = client.clock_ahead_s
    if off_s is None:
        return Check("clock", "warning", "DOK did not tell the time")
    told = f"{abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} DOK's" if abs(off_s) >= 1 else "as DOK's"
    advice = "set it, on Linux: sudo timedatectl set-ntp true"
    if abs(off_s) >= REFUSED_FROM_S:
        return Check("clock", "wrong", f"{told}; nothing is sent like that", advice)
    return Check("clock", "warning", told, advice) if abs(off_s) >= WARNED_FROM_S else Check("clock", "ok", told)


def _tasks(client: Client) -> Check:
    try:
        count = client.tasks.list(page_size=1).meta.count
        plans = ", ".join(plan.id for plan in client.plans.iterate())
    except (errors.Forbidden, errors.Unauthorized) as error:
        grant = "grant the API key DOK in the control panel, or agree to the terms: dokrun account agree"
        return Check("DOK", "wrong", str(error), grant)
    except errors.ApiError as error:
        return Check("DOK", "wrong", str(error), "try again; look at the service's status page")
    return Check("DOK", "ok", f"{count} tasks; plans: {plans}")


def _bucket(settings: BucketSettings | None) -> Check:
    if settings is None:
        told = "none is set: calls of up to 64 KiB work without; larger ones, secrets, checkpoints and dok.put do not"
        return Check("bucket", "not needed", told, "dokrun init, or DOKRUN_BUCKET")
    try:
        with closing(Bucket(settings)) as bucket:
            return _tried(bucket)
    except (errors.StorageError, errors.ConfigError) as error:
        return Check("bucket", "wrong", str(error), "look at DOKRUN_BUCKET, DOKRUN_S3_ENDPOINT_URL and its keys")


def _tried(bucket: Bucket) -> Check:
    key, first, second = keys.probe(secrets.token_hex(8)), b"first", b"second"
    try:
        bucket.put(key, first)
        if bucket.read(key) != first or key not in bucket.keys(key):
            return Check("bucket", "wrong", f"{bucket.name}: what was written is not what is read", "use another store")
        bucket.delete(key)
        if bucket.claim(key, first) is not None or bucket.claim(key, second) != first:
            told = f"{bucket.name}: the store lets a second writer win, so that two tasks could start the same call"
            return Check("bucket", "wrong", told, "use a store that honours If-None-Match")
    finally:
        bucket.delete(key)
    return Check("bucket", "ok", f"{bucket.name}: writes, reads, lists, and refuses a second claim")


def _registry(settings: Settings, client: Client) -> Iterator[Check]:
    if settings.registry is None:
        told = "none is set: only images that dokrun builds need one"
        yield Check("registry", "not needed", told, "dokrun init, or DOKRUN_REGISTRY")
        return
    try:
        reference = Reference.parse(f"{settings.registry.name}/dokrun:probe")
        with closing(Registry(lambda host: credentials_of(settings, host), attempts=1, limit_s=_BRIEFLY_S)) as registry:
            registry.digest(reference)
        yield Check("registry", "ok", f"{settings.registry.name} answers; whether it lets you push is seen at a push")
    except errors.ImageError as error:
        yield Check("registry", "wrong", str(error), "look at DOKRUN_REGISTRY and its username and password")
        return
    yield _known(settings, settings.registry, reference, client)


def _known(settings: Settings, kept: RegistrySettings, reference: Reference, client: Client) -> Check:
    """Tell whether DOK can pull from the registry as well."""
    name = "registry, for DOK"
    if reference.loopback:
        return Check(name, "ok", "it is on this machine, as the tasks must be")
    try:
        credentials = credentials_of(settings, reference.host)
        known = [one.username for one in known_of(client, reference.host)]
    except (errors.ApiError, errors.ImageError) as error:
        return Check(name, "warning", str(error))
    if credentials is None:
        told = f"no credentials for {kept.name} are here; it works if everybody may pull, or DOK has some"
        return Check(name, "ok" if known else "warning", told)
    if credentials.username in known:
        return Check(name, "ok", f"DOK keeps the credentials of {credentials.username}")
    told = f"DOK does not have the credentials of {credentials.username}; unless everybody may pull, tasks cannot start"
    return Check(name, "warning", told, f"dokrun registry add {reference.host}")


def _image(settings: Settings) -> Check:
    name, image = "default image", default_image()
    try:
        reference = Reference.parse(image)
        if settings.hub_mirror is not None:
            reference = Reference.parse(image.replace("docker.io", settings.hub_mirror, 1))
        with closing(Registry(lambda _: None, attempts=1, limit_s=_BRIEFLY_S)) as registry:
            found = registry.digest(reference)
    except errors.ImageError as error:
        return Check(name, "warning", f"{image} could not be looked up from here; DOK pulls it by itself ({error})")
    if found is None:
        told = f"there is no {image}, which calls without image= run in"
        return Check(name, "wrong", told, "name one that has this Python, or use a Python that has one")
    return Check(name, "ok", image)


def _docker(*, needed: bool) -> Check:
    try:
        with engine("only images with steps are built here", silence_s=_BRIEFLY_S) as api:
            told = str(api.version().get("Version", "of no version"))
    except errors.ImageError as error:
        return Check("Docker", "warning" if needed else "not needed", str(error))
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises, there is none that can be used
        return Check(
            "Docker", "warning" if needed else "not needed", f"its engine cannot be used: {type(error).__name__}"
        )
    return Check("Docker", "ok", f"an engine {told} answers")
