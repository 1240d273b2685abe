"""Which account, which bucket, which folder: read once from the environment and the user's files, then frozen.

The profile is the first of: the one asked for, `DOKRUN_PROFILE`, the file `config.toml` in the user's config folder,
DOK credentials in the environment or in usacloud's profile, else `local`, which needs no account: an emulator and an
object store in a process beside this one. This module and `dokrun.emulator` alone know about that.

    access_token = "…"                # the profile `default`
    access_token_secret = "…"
    budget_yen_per_day = 3000         # nothing is submitted that would cost more on one day
    [bucket]
    name = "my-bucket"
    endpoint_url = "https://s3.isk01.sakurastorage.jp"
    [registry]
    name = "my-registry.sakuracr.jp/team"   # host/namespace: where images that dokrun builds are kept
    [defaults]                        # options of @remote
    plan = "h100-80gb"
    [profiles.work]                   # the profile `work`, with the same keys
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import platformdirs

from dokrun import profiles
from dokrun.errors import ConfigError, MissingCredentials, suggest
from dokrun.image.spec import HOST, NAMED_HOST, REPOSITORY
from dokrun.options import Options
from dokrun.profiles import DEFAULT
from dokrun.secret import Secret

# https://manual.sakura.ad.jp/koukaryoku-dok-api/spec.html; the only zone that offers the service is Ishikari 1.
DEFAULT_API_URL = "https://secure.sakura.ad.jp/cloud/zone/is1a/api/managed-container/1.0"
LOCAL = "local"
# What this machine calls itself.
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

NO_CREDENTIALS = (
    "Authentication credentials not provided: set DOKRUN_ACCESS_TOKEN and DOKRUN_ACCESS_TOKEN_SECRET to an API key of "
    "Sakura Cloud that has been granted DOK, or use the profile `local`, which needs none"
)
NO_BUCKET = (
    "no bucket is configured: set DOKRUN_BUCKET, and for a store other than AWS DOKRUN_S3_ENDPOINT_URL, to an "
    "S3-compatible bucket that you can read and write"
)

_TOKENS = ("DOKRUN_ACCESS_TOKEN", "SAKURA_ACCESS_TOKEN", "SAKURACLOUD_ACCESS_TOKEN")


@dataclass(frozen=True)
class BucketSettings:
    """Where objects go; what is None is left to the AWS tools' own sources (environment, AWS profile)."""

    name: str
    endpoint_url: str | None = field(default=None, repr=False)
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: Secret | None = None


@dataclass(frozen=True)
class RegistrySettings:
    """Where built images are kept: `name` is host/namespace. Without a username, Docker's own credentials are used."""

    name: str
    username: str | None = None
    password: Secret | None = None


@dataclass(frozen=True)
class Settings:
    """All that the rooms need to know. `source` tells for each setting where it came from, never its value.

    `uses_images` is False where tasks are processes of this machine, so that no image is looked at, nor built;
    `outlasts` is False where tasks end with this process, and `charges` where nobody pays for them.
    `budget_yen_per_day` is what all tasks of the project may cost on one day, in Japan's time.
    """

    profile: str
    # Somebody may have written a password into it.
    api_url: str = field(default=DEFAULT_API_URL, repr=False)
    access_token: str = ""
    access_token_secret: Secret = field(default=Secret(""))
    bucket: BucketSettings | None = None
    registry: RegistrySettings | None = None
    hub_mirror: str | None = None
    uses_images: bool = True
    outlasts: bool = True
    charges: bool = True
    budget_yen_per_day: Decimal | None = None
    defaults: Options = field(default_factory=Options, repr=False)
    state_dir: Path = field(default_factory=lambda: platformdirs.user_state_path("dokrun"))
    source: Mapping[str, str] = field(default_factory=dict)

    @property
    def listens_on(self) -> str:
        """The address on which a container takes requests: this machine's own, where its tasks run here."""
        here = urllib.parse.urlsplit(self.api_url).hostname in LOOPBACK
        return "127.0.0.1" if here else "0.0.0.0"  # noqa: S104 - within a container of DOK's, which is behind its proxy

    @property
    def account(self) -> str:
        """What keeps one account's records apart from another's: a name that tells nothing of the API key."""
        if self.profile == LOCAL:
            return LOCAL
        return hashlib.sha256(f"{self.api_url}\n{self.access_token}".encode()).hexdigest()[:16]


def config_file() -> Path:
    """Tell where the user's own file is, or would be."""
    return platformdirs.user_config_path("dokrun") / "config.toml"


def load(
    profile: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    config_dir: Path | None = None,
    home: Path | None = None,
) -> Settings:
    """Read the settings of a profile, or of the one that the environment and the files choose.

    Args:
        profile: its name; `local` reads nothing else.
        environ: in place of this process's environment.
        config_dir: in place of the user's config folder.
        home: in place of the user's home folder, where usacloud keeps its profiles.

    Raises:
        ConfigError: a setting is wrong, or a file with secrets can be read by others.
        MissingCredentials: the profile has no API key.
    """
    tables = profiles.read(config_file() if config_dir is None else config_dir / "config.toml")
    usacloud = profiles.usacloud(home or Path.home())
    name, why = _choose(profile, environ, tables, usacloud)
    # A shell leaves ~ as it is within quotes, and so does what reads a .env file.
    told = os.path.expanduser(environ.get("DOKRUN_STATE_DIR") or "")  # noqa: PTH111 - Path's own raises without a home
    state_dir = Path(told or platformdirs.user_state_path("dokrun"))
    if name == LOCAL:
        defaults = Options().updated(tables.get(DEFAULT, {}).get("defaults", {}))
        return Settings(
            LOCAL,
            uses_images=False,
            outlasts=False,
            charges=False,
            defaults=defaults,
            state_dir=state_dir,
            source={"profile": why},
        )
    if name not in tables and name != DEFAULT:
        raise ConfigError(f"there is no profile {name!r} ({why}){suggest(str(name), [*tables, LOCAL])}")
    table = tables.get(name, {})
    source = {"profile": why}
    named = why in ("profile=", "DOKRUN_PROFILE")
    token, secret = _credentials(environ, table, usacloud, source, named=named)
    api_url = environ.get("DOKRUN_API_URL") or table.get("api_url")
    source["api_url"] = "built in" if api_url is None else _origin("DOKRUN_API_URL", environ)
    return Settings(
        name,
        api_url=api_url or DEFAULT_API_URL,
        access_token=token,
        access_token_secret=Secret(secret),
        bucket=_bucket(environ, table.get("bucket", {}), source),
        registry=_registry(environ, table.get("registry", {}), source),
        hub_mirror=_hub_mirror(environ, table.get("registry", {}), source),
        budget_yen_per_day=_budget(environ, table, source),
        defaults=Options().updated(table.get("defaults", {})),
        state_dir=state_dir,
        source=source,
    )


def begin(settings: Settings) -> None:
    """Have the emulator started where the profile is `local`, while whoever will use it loads the rest."""
    if settings.profile == LOCAL:
        from dokrun.emulator import local

        local.start()


def connect(settings: Settings) -> Settings:
    """Make the settings usable: start the emulator where the profile is `local`; leave the others as they are.

    Raises:
        ConfigError: the profile is `local` and its parts are not installed.
    """
    if settings.profile != LOCAL:
        return settings
    from dokrun.emulator import local

    here = local.start()
    bucket = BucketSettings(
        here.bucket, here.s3_url, here.region, access_key_id=here.token, secret_access_key=Secret(here.secret)
    )
    if "nothing else" in settings.source.get("profile", ""):
        print("dokrun: no DOK credentials: running on the local emulator, no GPU, no charge", file=sys.stderr)
    return replace(
        settings,
        api_url=here.api_url,
        access_token=here.token,
        access_token_secret=Secret(here.secret),
        bucket=bucket,
    )


def _choose(
    profile: str | None, environ: Mapping[str, str], tables: Mapping[str, Any], usacloud: tuple[str, str] | None
) -> tuple[str, str]:
    if profile is not None:
        return profile, "profile="
    if environ.get("DOKRUN_PROFILE"):
        return environ["DOKRUN_PROFILE"], "DOKRUN_PROFILE"
    if set(tables.get(DEFAULT, {})) - {"defaults", "budget_yen_per_day"}:
        return DEFAULT, "config.toml"
    for name in _TOKENS:
        if environ.get(name):
            return DEFAULT, name
    if usacloud is not None:
        return DEFAULT, "usacloud's profile"
    return LOCAL, "nothing else is configured"


def _credentials(
    environ: Mapping[str, str],
    table: Mapping[str, Any],
    usacloud: tuple[str, str] | None,
    source: dict[str, str],
    *,
    named: bool,
) -> tuple[str, str]:
    candidates = [(name, environ.get(name), environ.get(f"{name}_SECRET")) for name in _TOKENS]
    # dokrun's own variables come before its file, the ones that other tools share come after it. The file comes first
    # where somebody has named the profile: the bill must not go to another account.
    in_file = ("config.toml", table.get("access_token"), table.get("access_token_secret"))
    candidates.insert(0 if named else 1, in_file)
    if usacloud is not None:
        candidates.append(("usacloud's profile", *usacloud))
    for where, token, secret in candidates:
        if token and secret:
            source["access_token"] = where
            return token, secret
        if token or secret:
            missing = "secret" if token else "token"
            raise MissingCredentials(
                f"{NO_CREDENTIALS} (from {where} only the other half came: its {missing} is missing)"
            )
    raise MissingCredentials(NO_CREDENTIALS)


class _Table:
    """One table of the file, with the environment's variables before it; notes where each value came from."""

    def __init__(self, name: str, environ: Mapping[str, str], table: Mapping[str, Any], source: dict[str, str]) -> None:
        self._name = name
        self._environ = environ
        self._table = table
        self._source = source

    def first(self, key: str, *names: str) -> str | None:
        """Tell the first that is set of some variables and the file's key."""
        for name in names:
            if self._environ.get(name):
                self._source[f"{self._name}.{key}"] = name
                return self._environ[name]
        if self._table.get(key):
            self._source[f"{self._name}.{key}"] = "config.toml"
            return str(self._table[key])
        return None

    def secret(self, key: str, *names: str) -> Secret | None:
        """The same, for what is never shown."""
        value = self.first(key, *names)
        return Secret(value) if value else None


def _bucket(environ: Mapping[str, str], table: Mapping[str, Any], source: dict[str, str]) -> BucketSettings | None:
    told = _Table("bucket", environ, table, source)
    name = told.first("name", "DOKRUN_BUCKET")
    if name is None:
        return None
    return BucketSettings(
        name,
        told.first("endpoint_url", "DOKRUN_S3_ENDPOINT_URL")
        or told.first("endpoint_url", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        told.first("region", "DOKRUN_S3_REGION") or told.first("region", "AWS_DEFAULT_REGION"),
        told.first("access_key_id", "DOKRUN_S3_ACCESS_KEY_ID"),
        told.secret("secret_access_key", "DOKRUN_S3_SECRET_ACCESS_KEY"),
    )


def _registry(environ: Mapping[str, str], table: Mapping[str, Any], source: dict[str, str]) -> RegistrySettings | None:
    told = _Table("registry", environ, table, source)
    name = told.first("name", "DOKRUN_REGISTRY")
    if name is None:
        return None
    if not re.fullmatch(f"{NAMED_HOST}(?:/{REPOSITORY})?/?", name):
        # It may be an address with a password in it.
        raise ConfigError(
            f"the registry (from {_origin('DOKRUN_REGISTRY', environ)}) is not HOST/NAMESPACE; set DOKRUN_REGISTRY, or "
            "name under [registry], to the like of my-registry.sakuracr.jp/team, in small letters and without https://"
        )
    username = told.first("username", "DOKRUN_REGISTRY_USERNAME")
    password = told.secret("password", "DOKRUN_REGISTRY_PASSWORD")
    if (username is None) != (password is None):
        missing = "password" if password is None else "username"
        raise ConfigError(
            f"the registry {name} has only half of its credentials; set DOKRUN_REGISTRY_{missing.upper()}"
        )
    return RegistrySettings(name.rstrip("/"), username, password)


def _hub_mirror(environ: Mapping[str, str], table: Mapping[str, Any], source: dict[str, str]) -> str | None:
    told = environ.get("DOKRUN_HUB_MIRROR") or table.get("hub_mirror")
    if not told:
        return None
    if not isinstance(told, str) or not re.fullmatch(HOST, told):
        # It may be an address with a password in it.
        raise ConfigError(
            f"the mirror of Docker Hub (from {_origin('DOKRUN_HUB_MIRROR', environ)}) is not a registry's host; set "
            "DOKRUN_HUB_MIRROR, or hub_mirror under [registry], to HOST or HOST:PORT alone"
        )
    source["registry.hub_mirror"] = _origin("DOKRUN_HUB_MIRROR", environ)
    return told


def _budget(environ: Mapping[str, str], table: Mapping[str, Any], source: dict[str, str]) -> Decimal | None:
    told = environ.get("DOKRUN_BUDGET_YEN_PER_DAY") or table.get("budget_yen_per_day")
    if told is None:
        return None
    source["budget_yen_per_day"] = where = _origin("DOKRUN_BUDGET_YEN_PER_DAY", environ)
    try:
        budget = Decimal(str(told))
    except InvalidOperation:
        budget = Decimal("NaN")
    if isinstance(told, bool) or not budget.is_finite() or budget < 0:
        raise ConfigError(
            f"budget_yen_per_day (from {where}) is not a number of yen; set DOKRUN_BUDGET_YEN_PER_DAY, or "
            "budget_yen_per_day in config.toml, to the like of 3000"
        )
    return budget


def _origin(name: str, environ: Mapping[str, str]) -> str:
    return name if environ.get(name) else "config.toml"
