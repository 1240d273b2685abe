"""What tasks leave behind."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

from dokrun.api import models
from dokrun.api.download import Progress, download, stream
from dokrun.api.resources.base import PAGE_SIZE, Resource, iterate_pages, segment

# The service collects at most 20 GB.
LARGEST_ARTIFACT_BYTES = 20 * 10**9


class Artifacts(Resource):
    """What tasks left in their artifact folder, for 72 hours."""

    def list(
        self, *, page: int = 1, page_size: int = PAGE_SIZE, task: str | None = None
    ) -> models.Page[models.Artifact]:
        """Tell one page of the artifacts, of one task or of all."""
        query = {"page": page, "page_size": page_size, "task": task}
        return self._connection.request("GET", "/artifacts/", models.Page[models.Artifact], query=query)

    def iterate(self, *, page_size: int = PAGE_SIZE, task: str | None = None) -> Iterator[models.Artifact]:
        """Yield all artifacts, of one task or of all."""
        return iterate_pages(lambda page: self.list(page=page, page_size=page_size, task=task))

    def get(self, artifact_id: str) -> models.Artifact:
        """Tell one artifact. Raises NotFound where there is none of this id."""
        return self._connection.request("GET", f"/artifacts/{segment(artifact_id)}/", models.Artifact)

    def download_url(self, artifact_id: str) -> str:
        """Ask for an address of the artifact's tar.gz that works for a limited time."""
        return self._connection.request("GET", f"/artifacts/{segment(artifact_id)}/download/", models.DownloadUrl).url

    def download(
        self,
        artifact_id: str,
        path: Path,
        *,
        limit_bytes: int = LARGEST_ARTIFACT_BYTES,
        on_progress: Progress | None = None,
    ) -> Path:
        """Download the artifact's tar.gz to a file, whole or not at all, and go on where it broke.

        Args:
            artifact_id: which.
            path: where the file shall be; its folder exists.
            limit_bytes: more than this is refused.
            on_progress: told the bytes so far and in all, None where nobody knows, with every MiB and at the end.

        Raises:
            NoAnswer: it broke again and again.
            InvalidAnswer: it is larger than `limit_bytes`, or another part came than was asked for.
            Refused: there is no such artifact, or its 72 hours are over.
        """
        return download(
            self._connection,
            lambda: self.download_url(artifact_id),
            path,
            limit_bytes=limit_bytes,
            on_progress=on_progress,
        )

    def stream(self, artifact_id: str, *, limit_bytes: int = LARGEST_ARTIFACT_BYTES) -> Generator[bytes, None, None]:
        """Yield the artifact's tar.gz as it comes, each byte once; it goes on where it broke.

        Args:
            artifact_id: which.
            limit_bytes: more than this is refused.

        Raises as `download` does. Whoever does not take all of it closes it.
        """
        return stream(self._connection, lambda: self.download_url(artifact_id), limit_bytes=limit_bytes)
