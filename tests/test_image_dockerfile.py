"""Dockerfiles are read as Docker reads them: what they build on, and what the engine's own builder cannot do."""

from __future__ import annotations

import pytest

from dokrun.errors import ImageError
from dokrun.image.dockerfile import check, named, pinned

DIGEST = "sha256:" + "1" * 64


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("FROM python:3.11-slim", ["python:3.11-slim"]),
        ("# FROM no:1\n\n  from --platform=linux/amd64 \\\n  a:1 as build\nFROM Build\nFROM b", ["a:1", "b"]),
        (f"FROM scratch\nFROM a@{DIGEST}\nFROM a:1@{DIGEST}", []),
        (
            "FROM a AS x\nCOPY --chown=1:1 --from=x /a /\nCOPY --from=0 /a /\nCOPY --from=r.io/t:2 /a /\n",
            ["a", "r.io/t:2"],
        ),
        ("ARG V=3.11\nARG NAME=python:$V\nFROM ${NAME}-slim", ["python:3.11-slim"]),
        ("ARG V\nFROM a:${V:-2}\nFROM b:1${V:+.5}", ["a:2", "b:1"]),
        ("ARG GIVEN='no'\nFROM a:$GIVEN\nFROM b:1${GIVEN:+.5}", ["a:told", "b:1.5"]),
        ("FROM a:$UNKNOWN\nARG V=1\nFROM b:$V", []),
        ("FROM a\nRUN echo \\\n# a remark\n\nFROM no:1\nCOPY . \\\n  --from=no:2 /", ["a"]),
        ('ARG V="1\nFROM a', ["a"]),
        ("FROM a\r\nFROM b AS c\r\nFROM c\r\n", ["a", "b"]),
    ],
)
def test_the_images_that_a_dockerfile_takes_from_registries_are_found(text: str, names: list[str]) -> None:
    assert [one.name for one in named(text, {"GIVEN": "told", "OTHER": "x"})] == names


def test_a_pin_takes_the_place_of_the_name_and_of_nothing_else() -> None:
    text = "ARG V=1\n# a:1\nFROM a:$V AS a\nRUN echo a:1\nFROM a\nCOPY --from=b:1 \\\n /b /\nFROM c\n"
    pins = {"a:1": f"r/a@{DIGEST}", "b:1": f"r/b@{DIGEST}"}
    assert pinned(text, {}, pins) == text.replace("FROM a:$V", f"FROM r/a@{DIGEST}").replace("=b:1", f"=r/b@{DIGEST}")


@pytest.mark.parametrize(
    ("line", "used"),
    [
        ("RUN --mount=type=secret,id=s3cret true", "RUN --mount"),
        ("run \\\n  --network=none --mount=type=bind true", "RUN --network"),
        ("COPY --chown=1:1 --link a /", "COPY --link"),
        ("COPY --from=x --chmod=755 a /", "COPY --chmod"),
        ("ADD --checksum=sha256:12 http://x/y /", "ADD --checksum"),
        ("RUN <<EOF\necho hi\nEOF", "a here-document, <<EOF"),
        ("RUN python3 - <<'END' > /x\nprint()\nEND\nRUN true", "a here-document, <<END"),
        ('COPY <<-"A" /x\nhi\n\tA\n', "a here-document, <<A"),
    ],
)
def test_what_only_buildkit_reads_is_refused_with_what_to_do(line: str, used: str) -> None:
    with pytest.raises(ImageError, match=r"docker build --platform=linux/amd64 .*from_registry") as caught:
        check(f"FROM a\n{line}\n", "/x/Dockerfile")
    assert f"the Dockerfile /x/Dockerfile uses {used}, which only BuildKit reads" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "# RUN --mount=x true",
        "COPY --from=x --chown=1:1 a /",
        "RUN pip install --mount=x a",
        "RUN echo $((1 << 3)) 1<<EOF",
        "RUN sort <<<EOF\nRUN cat <<EOF",
        'RUN ["/bin/sh", "-c", "cat <<EOF\\nhi\\nEOF\\n"]',
        "RUN echo \\\n  --mount=x",
        "RUN true\nCMD cat <<A\nA\n",
    ],
)
def test_what_the_engines_own_builder_reads_is_not_refused(text: str) -> None:
    check(f"FROM --platform=linux/amd64 a\n{text}\n", "/x/Dockerfile")
