"""Have a Docker engine pull what tasks name: always, as the service does, and with what the account has registered.

What this machine's `docker login` knows is not used: the service does not know it either.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any

from dokrun.api.models import ContainerRequest
from dokrun.emulator.docker_engine import sdk, told
from dokrun.emulator.runtime import Credentials, CredentialsOf, NoImage


class Pulls:
    """The pulls of tasks' images, which may take minutes and can be given up."""

    def __init__(self, api: Any, credentials_of: CredentialsOf) -> None:
        self._api = api
        self._credentials_of = credentials_of
        self._under_way: dict[str, Future[str]] = {}
        self._given_up: set[str] = set()

    async def image_of(self, task_id: str, container: ContainerRequest) -> str:
        """Pull a task's image. Returns its id.

        Raises:
            NoImage: it cannot be pulled, or is waited for no longer.
        """
        if task_id in self._given_up:
            raise _given_up()
        credentials = self._credentials(container)
        pulled = self._under_way[task_id] = Future()

        def work() -> None:
            try:
                image_id = self._pull(container.image, credentials)
            except Exception as error:  # noqa: BLE001 - whatever it is, the task waits for this answer
                _settle(partial(pulled.set_exception, NoImage(f"the image cannot be pulled: {told(error)}")))
            else:
                _settle(partial(pulled.set_result, image_id))

        try:
            threading.Thread(target=work, name=f"dokrun-pull-{task_id}", daemon=True).start()
            return await asyncio.wrap_future(pulled)
        finally:
            del self._under_way[task_id]

    def give_up(self, task_id: str) -> None:
        """Wait no longer for a task's image."""
        self._given_up.add(task_id)
        if task_id in self._under_way:
            _settle(partial(self._under_way[task_id].set_exception, _given_up()))

    def _credentials(self, container: ContainerRequest) -> Credentials | None:
        if container.registry is None:
            return None
        credentials = self._credentials_of(container.registry)
        if credentials is None:
            raise NoImage(
                "the image cannot be pulled: the password of its registry is gone, since an emulator keeps passwords"
                " only while it runs; register it again"
            )
        return credentials

    def _pull(self, image: str, credentials: Credentials | None) -> str:
        docker = sdk()
        repository, tag = docker.utils.parse_repository_tag(image)
        steps = self._api.pull(
            repository,
            tag or "latest",
            stream=True,
            decode=True,
            platform="linux/amd64",
            auth_config=_auth(repository, credentials),
        )
        for step in steps:
            if "error" in step:
                raise docker.errors.DockerException(step["error"])
        return str(self._api.inspect_image(image)["Id"])


def _auth(repository: str, credentials: Credentials | None) -> dict[str, str]:
    """Tell what the engine shall tell the registry: nothing to one that the credentials are not for."""
    names = sdk().auth
    if (
        credentials is None
        or names.resolve_index_name(credentials.hostname) != names.resolve_repository_name(repository)[0]
    ):
        return {}
    return {"username": credentials.username, "password": credentials.password}


def _given_up() -> NoImage:
    return NoImage("the task was told to end before its image was there")


def _settle(settle: Callable[[], None]) -> None:
    try:
        settle()
    except InvalidStateError:
        pass  # it was given up
