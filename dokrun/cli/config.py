"""`dokrun config`: what dokrun is told, and by what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

from dokrun import config, redact
from dokrun.cli import render
from dokrun.cli.groups import group
from dokrun.cli.parameters import Json, Profile
from dokrun.options import Options
from dokrun.port import Http
from dokrun.retry import Retry

app = group("What dokrun is told.")


@app.command("show")
def show(as_json: Json = False, profile: Profile = None) -> None:
    """Tell which settings are used, and where they came from. Secrets are not shown."""
    settings = config.load(profile)
    rows: list[render.Row] = []

    def tell(setting: str, value: object, where: str = "") -> None:
        shown = "not set" if value is None and not as_json else value
        rows.append({"setting": setting, "value": shown, "from": where})

    tell("profile", settings.profile, settings.source["profile"])
    if settings.profile != config.LOCAL:
        tell("api_url", redact.url(settings.api_url), settings.source["api_url"])
        tell("access_token", "…", settings.source["access_token"])
        for table_name, keys in (("bucket", ("name", "endpoint_url", "region")), ("registry", ("name", "username"))):
            for key in keys:
                value = getattr(getattr(settings, table_name), key, None)
                value = redact.url(value) if value and key == "endpoint_url" else value
                tell(f"{table_name}.{key}", value or None, settings.source.get(f"{table_name}.{key}", ""))
        tell("registry.hub_mirror", settings.hub_mirror, settings.source.get("registry.hub_mirror", ""))
        if settings.budget_yen_per_day is not None:
            tell("budget_yen_per_day", settings.budget_yen_per_day, settings.source["budget_yen_per_day"])
    for option, value in _said(settings.defaults):
        tell(f"defaults.{option}", value, "config.toml")
    tell("state_dir", str(settings.state_dir))
    tell("config_file", str(config.config_file()))
    render.table(rows, ("setting", "value", "from"), as_json=as_json)


def _said(options: Options) -> Iterator[tuple[str, object]]:
    """Tell the options that are set, as one writes them; of variables the names alone, whose texts may be secret."""
    for field in fields(options):
        name, value = field.name, getattr(options, field.name)
        if name == "timeout_s" and value is not None:
            yield "timeout", f"{value:g}s"
        elif isinstance(value, Mapping):
            yield from [(name, list(value))] if value else []
        elif isinstance(value, (Retry, Http)):
            yield name, value.times if isinstance(value, Retry) else value.port
        elif value not in (None, ()):
            yield name, value
