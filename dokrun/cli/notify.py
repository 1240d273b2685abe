"""`dokrun notify`: who is told when a task ends. Endpoints are addresses, settings say which of them hear of what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from dokrun.cli import render
from dokrun.cli.ends import Status, say
from dokrun.cli.groups import group
from dokrun.cli.opened import client_of, whole_id
from dokrun.cli.parameters import Id, Json, Profile
from dokrun.errors import OptionError

if TYPE_CHECKING:
    from dokrun.api import Client
    from dokrun.api.models import NotificationEndpoint, NotificationSetting

app = group("Who is told when a task ends.")
endpoint = group("Addresses that can be told what happens.")
setting = group("Which endpoints are told of which event.")
app.add_typer(endpoint, name="endpoint")
app.add_typer(setting, name="setting")

_WEBHOOK = "webhook"
_EVENT = "task_completed"
Secret = Annotated[bool, typer.Option("--secret", help="Show the secret that its messages are signed with.")]
Type = Annotated[str, typer.Option("--type", help="What kind it is.")]
EndpointId = Annotated[int, typer.Argument(metavar="ID", help="Its number.")]
Endpoints = Annotated[Optional[list[int]], typer.Option("--endpoint", help="Who is told; may come several times.")]  # noqa: UP045 - typer reads it at run time


@app.command("test")
def send_test(
    url: Annotated[str, typer.Argument(metavar="ADDRESS", help="The webhook's address.")],
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Have DOK send a test message to a webhook, and tell what it answered; exit status 1 if that was no success."""
    with client_of(profile) as client:
        answer = client.notifications.settings.test_webhook(url)
    told = {"ok": answer.ok, "status": answer.webhook_status_code, "answer": answer.response_body}
    render.facts(told, as_json=as_json)
    if not answer.ok:
        say("the webhook did not take it")
        raise typer.Exit(Status.FAILED)


@endpoint.command("list")
def list_endpoints(secret: Secret = False, as_json: Json = False, profile: Profile = None) -> None:
    """List the endpoints."""
    with client_of(profile) as client:
        rows = [_of_endpoint(one, secret=secret) for one in client.notifications.endpoints.iterate()]
    columns = ("id", "type", "address", "verified", *(("secret",) if secret else ()))
    render.table(rows, columns, as_json=as_json)


@endpoint.command("show")
def show_endpoint(
    identity: EndpointId,
    secret: Secret = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Tell one endpoint."""
    with client_of(profile) as client:
        told = _of_endpoint(client.notifications.endpoints.get(identity), secret=secret)
    render.facts(told, as_json=as_json)


@endpoint.command("add")
def add_endpoint(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Its address, as https://…")],
    kind: Type = _WEBHOOK,
    secret: Secret = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Register an endpoint."""
    from dokrun.api.models import NotificationEndpointRequest

    with client_of(profile) as client:
        made = client.notifications.endpoints.create(NotificationEndpointRequest(kind, address))
    render.facts(_of_endpoint(made, secret=secret), as_json=as_json)


@endpoint.command("update")
def update_endpoint(
    identity: EndpointId,
    address: Annotated[Optional[str], typer.Option(help="Its new address.")] = None,  # noqa: UP045 - typer reads it at run time
    kind: Annotated[Optional[str], typer.Option("--type", help="What kind it is.")] = None,  # noqa: UP045 - typer reads it at run time
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Change an endpoint: what is said of it, or all of it."""
    if address is None and kind is None:
        raise OptionError("say what shall change: --address or --type")
    from dokrun.api.models import NotificationEndpointChange, NotificationEndpointRequest

    with client_of(profile) as client:
        endpoints = client.notifications.endpoints
        if address is not None and kind is not None:
            told = endpoints.update(identity, NotificationEndpointRequest(kind, address))
        else:
            told = endpoints.change(identity, NotificationEndpointChange(kind, address))
    render.facts(_of_endpoint(told, secret=False), as_json=as_json)


@endpoint.command("delete")
def delete_endpoint(identity: EndpointId, as_json: Json = False, profile: Profile = None) -> None:
    """Have DOK forget an endpoint."""
    with client_of(profile) as client:
        client.notifications.endpoints.delete(identity)
    render.done(f"endpoint {identity}: deleted", {"id": identity, "told": "deleted"}, as_json=as_json)


@setting.command("list")
def list_settings(as_json: Json = False, profile: Profile = None) -> None:
    """List the settings."""
    with client_of(profile) as client:
        rows = [_of_setting(one) for one in client.notifications.settings.iterate()]
    render.table(rows, ("id", "event", "enabled", "endpoints"), as_json=as_json)


@setting.command("show")
def show_setting(identity: Id, as_json: Json = False, profile: Profile = None) -> None:
    """Tell one setting."""
    with client_of(profile) as client:
        told = _of_setting(client.notifications.settings.get(_whole(client, identity)))
    render.facts(told, as_json=as_json)


@setting.command("add")
def add_setting(
    endpoints: Endpoints = None,
    event: Annotated[str, typer.Option(help="Of what they are told.")] = _EVENT,
    enabled: Annotated[bool, typer.Option("--on/--off", help="Whether they are.")] = True,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Say which endpoints are told of an event."""
    from dokrun.api.models import NotificationSettingRequest

    with client_of(profile) as client:
        made = client.notifications.settings.create(NotificationSettingRequest(event, enabled, endpoints or []))
    render.facts(_of_setting(made), as_json=as_json)


@setting.command("update")
def update_setting(
    identity: Id,
    endpoints: Endpoints = None,
    event: Annotated[Optional[str], typer.Option(help="Of what they are told.")] = None,  # noqa: UP045 - typer reads it at run time
    enabled: Annotated[Optional[bool], typer.Option("--on/--off", help="Whether they are.")] = None,  # noqa: UP045 - typer reads it at run time
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Change a setting: what is said of it, or all of it."""
    if endpoints is None and event is None and enabled is None:
        raise OptionError("say what shall change: --endpoint, --event, --on or --off")
    from dokrun.api.models import NotificationSettingChange, NotificationSettingRequest

    with client_of(profile) as client:
        whole, settings = _whole(client, identity), client.notifications.settings
        if endpoints is not None and event is not None and enabled is not None:
            told = settings.update(whole, NotificationSettingRequest(event, enabled, endpoints))
        else:
            told = settings.change(whole, NotificationSettingChange(event, enabled, endpoints))
    render.facts(_of_setting(told), as_json=as_json)


@setting.command("delete")
def delete_setting(identity: Id, as_json: Json = False, profile: Profile = None) -> None:
    """Have DOK forget a setting."""
    with client_of(profile) as client:
        whole = _whole(client, identity)
        client.notifications.settings.delete(whole)
    render.done(f"setting {whole}: deleted", {"id": whole, "told": "deleted"}, as_json=as_json)


def _whole(client: Client, text: str) -> str:
    return whole_id("setting", text, client.notifications.settings.iterate())


def _of_endpoint(one: NotificationEndpoint, *, secret: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": one.id,
        "type": one.endpoint_type,
        "address": one.address,
        "verified": one.is_verified,
        "created": one.created_at,
        "updated": one.updated_at,
    }
    return told | ({"secret": one.secret} if secret else {})


def _of_setting(one: NotificationSetting) -> dict[str, Any]:
    return {
        "id": one.id,
        "event": one.event_type,
        "enabled": one.is_enabled,
        "endpoints": [each.id for each in one.endpoints],
        "created": one.created_at,
        "updated": one.updated_at,
    }
