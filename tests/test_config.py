"""Which profile is chosen, where each setting comes from, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from dokrun import config
from dokrun.config import Settings
from dokrun.errors import ConfigError, MissingCredentials
from dokrun.secret import Secret


def load(tmp_path: Path, profile: str | None = None, toml: str = "", **environ: str) -> Settings:
    if toml:
        path = tmp_path / "config.toml"
        path.write_text(toml)
        path.chmod(0o600)
    return config.load(profile, environ=environ, config_dir=tmp_path, home=tmp_path)


KEY = {"DOKRUN_ACCESS_TOKEN": "t", "DOKRUN_ACCESS_TOKEN_SECRET": "s"}


def test_with_nothing_configured_the_profile_is_local(tmp_path: Path) -> None:
    assert load(tmp_path).profile == "local"


def test_the_state_folder_may_be_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(tmp_path, DOKRUN_STATE_DIR="~/state").state_dir == tmp_path / "state"


def test_a_profile_that_is_no_text_is_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no profile 3 \(profile=\); known are local"):
        load(tmp_path, 3)  # type: ignore[arg-type]


def test_local_reads_no_credentials_even_where_there_are_some(tmp_path: Path) -> None:
    settings = load(tmp_path, "local", **KEY)
    assert (settings.profile, settings.access_token) == ("local", "")


@pytest.mark.parametrize("prefix", ["DOKRUN", "SAKURA", "SAKURACLOUD"])
def test_credentials_in_the_environment_choose_the_default_profile(tmp_path: Path, prefix: str) -> None:
    given = {f"{prefix}_ACCESS_TOKEN": "t", f"{prefix}_ACCESS_TOKEN_SECRET": "s"}
    settings = load(tmp_path, **given)
    assert (settings.profile, settings.access_token) == ("default", "t")
    assert settings.access_token_secret.reveal() == "s"
    assert settings.source["access_token"] == f"{prefix}_ACCESS_TOKEN"


def test_dokruns_own_variables_come_before_its_file_and_that_before_shared_ones(tmp_path: Path) -> None:
    toml = 'access_token = "file"\naccess_token_secret = "s"'
    shared = {"SAKURACLOUD_ACCESS_TOKEN": "shared", "SAKURACLOUD_ACCESS_TOKEN_SECRET": "s"}
    assert load(tmp_path, toml=toml, **shared).access_token == "file"
    assert load(tmp_path, toml=toml, **shared, **KEY).access_token == "t"


def test_usaclouds_current_profile_is_found(tmp_path: Path) -> None:
    folder = tmp_path / ".usacloud"
    (folder / "lab").mkdir(parents=True)
    (folder / "current").write_text("lab\n")
    (folder / "lab" / "config.json").write_text(json.dumps({"AccessToken": "t", "AccessTokenSecret": "s"}))
    settings = load(tmp_path)
    assert settings.access_token == "t"
    assert settings.source["access_token"] == "usacloud's profile"


def test_a_named_profile_of_the_file_is_used(tmp_path: Path) -> None:
    toml = """
        access_token = "one"
        access_token_secret = "s"
        [profiles.work]
        access_token = "two"
        access_token_secret = "s"
        [profiles.work.bucket]
        name = "b"
        endpoint_url = "https://s3.isk01.sakurastorage.jp"
        [profiles.work.defaults]
        plan = "h100-80gb"
    """
    settings = load(tmp_path, toml=toml, DOKRUN_PROFILE="work")
    assert (settings.profile, settings.access_token) == ("work", "two")
    assert settings.bucket is not None
    assert settings.bucket.endpoint_url == "https://s3.isk01.sakurastorage.jp"
    assert settings.defaults.plan == "h100-80gb"
    assert load(tmp_path).access_token == "one"


def test_the_bucket_comes_from_dokruns_variables_or_the_aws_ones(tmp_path: Path) -> None:
    aws = {"AWS_ENDPOINT_URL": "https://a", "AWS_DEFAULT_REGION": "jp-north-1"}
    bucket = load(tmp_path, **KEY, DOKRUN_BUCKET="b", **aws).bucket
    assert bucket is not None
    assert (bucket.name, bucket.endpoint_url, bucket.region) == ("b", "https://a", "jp-north-1")
    own = load(tmp_path, **KEY, DOKRUN_BUCKET="b", DOKRUN_S3_ENDPOINT_URL="https://d", **aws).bucket
    assert own is not None
    assert own.endpoint_url == "https://d"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("acess_token = 'x'", "unknown key 'acess_token'; did you mean 'access_token'?"),
        ("[bucket]\nnme = 'x'", "unknown key 'nme'; did you mean 'name'?"),
        ("api_url = 3", "api_url of profile 'default' is not a text"),
        ("[profiles]\nwork = 3", "the profile 'work' is not a table"),
        ("api_url = ", "is not valid TOML"),
        ("[defaults]\npln = 'x'", "no option 'pln'; did you mean 'plan'?"),
        ("[defaults]\nprofile = 'x'", "[defaults] of profile 'default' cannot choose a profile"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml=toml, **KEY)
    assert message in str(caught.value)


def test_a_file_with_secrets_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('access_token = "t"\naccess_token_secret = "s"')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        config.load(environ={}, config_dir=tmp_path, home=tmp_path)


def test_an_unknown_profile_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    toml = "[profiles.work]\napi_url = 'https://x'"
    with pytest.raises(ConfigError, match=r"no profile 'wrok' \(DOKRUN_PROFILE\); did you mean 'work'\?"):
        load(tmp_path, toml=toml, DOKRUN_PROFILE="wrok")


def test_half_a_key_is_refused_and_says_which_half_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingCredentials, match=r"Authentication credentials not provided.*its secret is missing"):
        load(tmp_path, DOKRUN_ACCESS_TOKEN="t")


def test_a_profile_without_a_key_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(MissingCredentials, match="Authentication credentials not provided: set DOKRUN_ACCESS_TOKEN"):
        load(tmp_path, toml="api_url = 'https://x'")


def test_a_secret_is_never_shown_or_pickled(tmp_path: Path) -> None:
    settings = load(tmp_path, DOKRUN_ACCESS_TOKEN="t", DOKRUN_ACCESS_TOKEN_SECRET="hidden-canary")
    assert "hidden-canary" not in repr(settings) + str(settings)
    with pytest.raises(TypeError):
        pickle.dumps(Secret("hidden-canary"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "is not valid TOML"), (b"profiles = 3", "profiles is not a table")],
)
def test_a_file_that_is_no_configuration_is_a_mistake_and_not_a_crash(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


def test_a_folder_in_place_of_the_file_is_a_mistake_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_a_file_with_defaults_alone_leaves_the_profile_local_and_gives_it_the_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, toml="[defaults]\nplan = 'v100-32gb'")
    assert (settings.profile, settings.defaults.plan) == ("local", "v100-32gb")


def test_a_named_profiles_own_key_comes_before_the_environments(tmp_path: Path) -> None:
    toml = "[profiles.work]\naccess_token = 'work'\naccess_token_secret = 's'"
    assert load(tmp_path, "work", toml=toml, **KEY).access_token == "work"


@pytest.mark.parametrize(
    "mirror", ["https://m.example", "m.example/hub", "ann:hunter2@m.example", "m.example:", "m..b"]
)
def test_a_mirror_that_is_no_host_is_refused(mirror: str, tmp_path: Path) -> None:
    for toml, environ in (("", {"DOKRUN_HUB_MIRROR": mirror}), (f'[registry]\nhub_mirror = "{mirror}"', {})):
        with pytest.raises(ConfigError, match="DOKRUN_HUB_MIRROR") as caught:
            load(tmp_path, toml=toml, **KEY, **environ)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "https://r.example/team",
        "team",
        "r.example/Team",
        "r.example/team:1",
        "r.example//team",
        "ann:hunter2@r.example/a",
    ],
)
def test_a_registry_that_is_no_host_and_namespace_is_refused(name: str, tmp_path: Path) -> None:
    for toml, environ in (("", {"DOKRUN_REGISTRY": name}), (f'[registry]\nname = "{name}"', {})):
        with pytest.raises(
            ConfigError, match=r"DOKRUN_REGISTRY, or name under \[registry\].*sakuracr\.jp/team"
        ) as caught:
            load(tmp_path, toml=toml, **KEY, **environ)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["r.example/team", "localhost/team", "127.0.0.1:5000/a/b", "docker.io/ann/", "r.example"]
)
def test_a_registry_is_a_host_with_or_without_a_namespace(name: str, tmp_path: Path) -> None:
    registry = load(tmp_path, **KEY, DOKRUN_REGISTRY=name).registry
    assert registry is not None
    assert registry.name == name.rstrip("/")


@pytest.mark.parametrize("mirror", ["m.example", "127.0.0.1:5000", "[::1]:5000", "localhost"])
def test_a_mirror_is_a_host_with_or_without_a_port(mirror: str, tmp_path: Path) -> None:
    assert load(tmp_path, **KEY, DOKRUN_HUB_MIRROR=mirror).hub_mirror == mirror
