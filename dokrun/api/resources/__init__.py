"""The API's resources, with the service's own words. Each method is one request, but for iterators and downloads."""

from dokrun.api.resources.account import Auth, Registries, SshKeys
from dokrun.api.resources.artifacts import LARGEST_ARTIFACT_BYTES, Artifacts
from dokrun.api.resources.base import PAGE_SIZE, Resource, iterate_pages
from dokrun.api.resources.money import Bills, Plans, Prices
from dokrun.api.resources.notifications import Endpoints, Notifications, Settings
from dokrun.api.resources.tasks import LARGEST_OUTPUT_BYTES, Tasks

__all__ = [
    "LARGEST_ARTIFACT_BYTES",
    "LARGEST_OUTPUT_BYTES",
    "PAGE_SIZE",
    "Artifacts",
    "Auth",
    "Bills",
    "Endpoints",
    "Notifications",
    "Plans",
    "Prices",
    "Registries",
    "Resource",
    "Settings",
    "SshKeys",
    "Tasks",
    "iterate_pages",
]
