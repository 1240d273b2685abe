"""The files in which profiles stand: dokrun's own `config.toml`, and usacloud's."""

from __future__ import annotations

import json
import os
import secrets
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dokrun.errors import ConfigError, OptionError, suggest
from dokrun.options import Options

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The profile that stands at the top of the file, without a name of its own.
DEFAULT = "default"

_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "access_token": str,
    "access_token_secret": str,
    "api_url": str,
    "bucket": dict,
    "registry": dict,
    "defaults": dict,
    "budget_yen_per_day": (int, float),
}
_KINDS: Mapping[object, str] = {str: "text", dict: "table", (int, float): "number"}
_TABLES = {
    "bucket": ("name", "endpoint_url", "region", "access_key_id", "secret_access_key"),
    "registry": ("name", "username", "password", "hub_mirror"),
}
_SECRETS = (("bucket", "secret_access_key"), ("registry", "password"))


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Read the profiles of `config.toml`, by name; none where there is no such file."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    profiles = content.pop("profiles", {})
    if not isinstance(profiles, dict):
        raise ConfigError(f"{path}: profiles is not a table; write [profiles.NAME]")
    tables = {**profiles, DEFAULT: content} if content else profiles
    for name, table in tables.items():
        _check(path, name, table)
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and any(_has_secret(table) for table in tables.values()):
        raise ConfigError(f"{path} holds secrets and can be read by others; run: chmod 600 '{path}'")
    return tables


def write(path: Path, name: str, table: Mapping[str, Any]) -> None:
    """Put a profile into `config.toml`, or change the one that is there; all that is not said of it stays as it is.

    A key of `table` that is None is removed. A table in it takes the former one's place as a whole: an old password is
    none for a new registry.

    The file is replaced as a whole, and only its owner can read it.

    Raises:
        ConfigError: the file is no TOML, or cannot be written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = path.resolve()  # it may be a link to where somebody keeps such files
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        section: Any = document
        for part in () if name == DEFAULT else ("profiles", name):
            section = section.setdefault(part, tomlkit.table(is_super_table=part == "profiles"))
        for key, value in table.items():
            if value is None or isinstance(value, Mapping):
                section.pop(key, None)
            if value is not None:
                section[key] = value
        text = tomlkit.dumps(document)
        tomllib.loads(text)
    except (TOMLKitError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)  # it has the secrets
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _has_secret(table: Mapping[str, Any]) -> bool:
    return "access_token_secret" in table or any(key in table.get(name, {}) for name, key in _SECRETS)


def _check(path: Path, name: str, table: object) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: the profile {name!r} is not a table")
    for key, value in table.items():
        if key not in _KEYS:
            raise ConfigError(f"{path}: profile {name!r} has an unknown key {key!r}{suggest(key, _KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise ConfigError(f"{path}: {key} of profile {name!r} is not a {_KINDS[_KEYS[key]]}")
    for inner, known in _TABLES.items():
        for key in table.get(inner, {}):
            if key not in known:
                raise ConfigError(
                    f"{path}: [{inner}] of profile {name!r} has an unknown key {key!r}{suggest(key, known)}"
                )
    if "profile" in table.get("defaults", {}):
        raise ConfigError(f"{path}: [defaults] of profile {name!r} cannot choose a profile")
    try:
        Options().updated(table.get("defaults", {}))
    except OptionError as error:
        raise ConfigError(f"{path}: [defaults] of profile {name!r}: {error}") from error


def usacloud(home: Path) -> tuple[str, str] | None:
    """Read the API key of usacloud's current profile (https://docs.usacloud.jp/usacloud/references/profile/)."""
    folder = home / ".usacloud"
    try:
        name = (folder / "current").read_text(encoding="utf-8").strip() or DEFAULT
    except OSError:
        name = DEFAULT
    try:
        content = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        token, secret = content["AccessToken"], content["AccessTokenSecret"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (token, secret) if token and secret else None
