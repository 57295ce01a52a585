"""Which values count as secrets: by name, by shape, wherever they are kept; and which do not."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from gatemask.secrets import values
from gatemask.secrets.known import kaggle_credential_files, known_secrets

VALUE = "vT9-plantedQ4x7mZ"  # no id of a test may hold it: PYTEST_CURRENT_TEST is a variable too


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home folder, which is also the project; no other variable holds a secret."""
    import os

    for name in list(os.environ):
        if name != "PATH":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert known_secrets(tmp_path) == {}
    return tmp_path


NAMES = [
    *("WANDB_API_KEY", "DB_PASS", "GITHUB_PAT", "MYSQL_PWD", "MY_SECRET", "db_password", "PGPASSWORD", "SENTRY_DSN"),
    *("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "BASIC_AUTH", "SLACK_WEBHOOK_URL", "RABBIT_CREDS", "KEYSTORE_PASSPHRASE"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_variables(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, VALUE)
    assert known_secrets(home) == {VALUE: name}


@pytest.mark.parametrize(
    "name", ["PWD", "OLDPWD", "PATH", "PATTERN", "TOKEN_URL", "SECRET_NAME", "KEY_FILE", "COMPAT", "GIT_AUTHOR_DATE"]
)
def test_names_of_settings_that_are_public(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, VALUE)
    assert VALUE not in known_secrets(home)


@pytest.mark.parametrize(
    "value",
    [
        *("segmentation", "Segmentation", "TRAINING", "out-of-fold", "my-project", "DatabasePassword", "mask_network"),
        *("short1!", "20240115", "aaaaaaaaaaaa1", "true", "localhost:wandb", ""),
    ],
)
def test_words_are_no_secrets(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MY_SECRET", value)
    assert known_secrets(home) == {}


@pytest.mark.parametrize(
    "value",
    [
        *("hunter2hunter2", "Tr0ub4dor&3", "correct-horse-battery-staple", "correct horse battery staple"),
        *("a-very-secret-word", "qzjvkxwpfhgtbmrd", "0123456789abcdef", "8273645172836451", "pässwörter!§%"),
        "x" * 3 + VALUE * 40,
    ],
)
def test_random_values_and_passphrases_are_secrets(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MY_SECRET", value)
    assert known_secrets(home) == {value: "MY_SECRET"}


SHAPES = [
    (f"postgres://me:{VALUE}@db.example/base", VALUE),
    ("postgres://me:p%40ss%2Fw0rd77@db.example/base", "p@ss/w0rd77"),
    ("redis://:p4ss@cache-7.example:6379", ":p4ss@cache-7.example:6379"),
    (f"https://{VALUE}:x@host.example", f"{VALUE}:x@host.example"),
    (f"AccountName=me;AccountKey={VALUE}==;EndpointSuffix=core", f"{VALUE}=="),
    (f"Server=a;User=b;Pwd={VALUE};", VALUE),
    ("ghp_0123456789abcdefghijABCDEFGHIJ456789", "ghp_0123456789abcdefghijABCDEFGHIJ456789"),
    ("hf_abcdefghijklmnopqrstuvwxyz012345", "hf_abcdefghijklmnopqrstuvwxyz012345"),
    ("AKIA0123456789ABCDEF", "AKIA0123456789ABCDEF"),
    ("KGAT_0123456789abcdef", "KGAT_0123456789abcdef"),
    ("https://user@host.example/path", None),
    ("just some words and 2024-01-15", None),
]


@pytest.mark.parametrize(("value", "secret"), SHAPES, ids=range(len(SHAPES)))
def test_secrets_that_show_what_they_are(
    home: Path, monkeypatch: pytest.MonkeyPatch, value: str, secret: str | None
) -> None:
    monkeypatch.setenv("WHATEVER", value)
    found = known_secrets(home)
    assert secret in found if secret else found == {}


LINES = [
    f"DB_PASS={VALUE}",
    f"export DB_PASS = '{VALUE}'",
    f'DB_PASS="{VALUE}"  # of the test server',
    f"DB_PASS={VALUE}  # of the test server",
    f"# DB_PASS={VALUE}",
    f"  #old: DB_PASS={VALUE}",
    f"A=1 DB_PASS={VALUE} B=2",
    f"DATABASE_URL=mysql://me:{VALUE}@host/base",
    f"# see mysql://me:{VALUE}@host/base",
    f"# token: {VALUE}",
    f'{{"aws": {{"prod": [{{"secret": "{VALUE}"}}]}}}}',
    f"aws:\n  secret_key: {VALUE}",
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
@pytest.mark.parametrize("name", [".env", ".env.local", "prod.env", "my-secrets.yaml"])
def test_files_of_settings(home: Path, line: str, name: str) -> None:
    (home / name).write_text(f"COLOR=blue\n{line}\n" if not line.startswith("{") else line)
    assert known_secrets(home).get(VALUE) == str(home / name)


def test_comments_may_hold_a_bare_token(home: Path) -> None:
    (home / ".env").write_text("# until May: 0123456789abcdef0123, with all rights\n")
    assert list(known_secrets(home)) == ["0123456789abcdef0123"]


def test_examples_are_no_secrets(home: Path) -> None:
    (home / ".env.example").write_text("DB_PASS=replace-this-by-yours-1\n")
    assert known_secrets(home) == {}


def test_values_with_blanks(home: Path) -> None:
    (home / ".env").write_text("DB_PASS=correct horse battery staple # quote\n")
    assert "correct horse battery staple" in known_secrets(home)


def test_all_entries_of_netrc(home: Path) -> None:
    (home / ".netrc").write_text(
        f"machine a login b password {VALUE}1 machine c\n login d\n  password\n  {VALUE}2\n"
        f'machine e login f account {VALUE}3 password "{VALUE} 4"\n'
    )
    assert set(known_secrets(home)) == {f"{VALUE}1", f"{VALUE}2", f"{VALUE}3", f"{VALUE} 4"}


KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n"
SECOND_LINE = "AQEFAASCBKcwggSjAgEAAoIB"
FILES = {
    ".aws/credentials": (
        f"[default]\naws_access_key_id = AKIA0123456789ABCDEF\naws_secret_access_key = {VALUE}\n",
        VALUE,
    ),
    ".config/gcloud/application_default_credentials.json": (json.dumps({"refresh_token": VALUE}), VALUE),
    ".docker/config.json": (
        json.dumps({"auths": {"https://index": {"auth": base64.b64encode(f"me:{VALUE}".encode()).decode()}}}),
        VALUE,
    ),
    ".git-credentials": (f"https://me:{VALUE}@github.com\n", VALUE),
    ".config/gh/hosts.yml": (f"github.com:\n    oauth_token: {VALUE}\n", VALUE),
    ".azure/msal_token_cache.json": (json.dumps({"AccessToken": {"a-b": {"secret": VALUE}}}), VALUE),
    ".pgpass": (f"host:5432:base:me:{VALUE}\n", VALUE),
    ".my.cnf": (f"[client]\nuser=me\npassword={VALUE}\n", VALUE),
    ".npmrc": (f"//registry.example/:_authToken={VALUE}\n", VALUE),
    ".pypirc": (f"[pypi]\nusername = __token__\npassword = {VALUE}\n", VALUE),
    ".ssh/id_rsa": (KEY, SECOND_LINE),
    ".kaggle/access_token": (VALUE, VALUE),
    ".kaggle/kaggle.json": (json.dumps({"username": "some-user-2000", "key": VALUE}), VALUE),
    ".cache/huggingface/token": (VALUE + "\n", VALUE),
    ".streamlit/secrets.toml": (f'[db]\npassword = "{VALUE}"\n', VALUE),
}


@pytest.mark.parametrize("name", FILES)
def test_credential_files(home: Path, name: str) -> None:
    text, secret = FILES[name]
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = known_secrets(home)
    assert found[secret] == str(path)
    assert "some-user-2000" not in found


def test_files_that_variables_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "account.json").write_text(json.dumps({"project_id": "siim-acr-2019", "private_key": KEY}))
    (home / "password").write_text(f"{VALUE}\n")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "account.json"))
    monkeypatch.setenv("DB_PASSWORD_FILE", str(home / "password"))
    found = known_secrets(home)
    assert set(found) >= {SECOND_LINE, VALUE}
    assert "siim-acr-2019" not in found
    assert found[VALUE].startswith("DB_PASSWORD_FILE")


def test_unreadable_files_are_skipped(home: Path) -> None:
    (home / ".env").write_bytes(b"\xff\xfe DB_PASS=" + VALUE.encode() + b"\0\n")
    (home / ".netrc").mkdir()
    (home / "my-secret.json").write_text("{" * 100_000)
    (home / ".aws").mkdir()
    (home / ".aws/credentials").symlink_to(home / "nowhere")
    assert [secret.strip("\0") for secret in known_secrets(home)] == [VALUE]


def test_kaggles_files_follow_its_variables(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / "other"))
    assert home / "other/kaggle.json" in kaggle_credential_files()
    assert home / ".kaggle/access_token" in kaggle_credential_files()


def test_entropy() -> None:
    assert values.entropy("aaaa") == 0
    assert values.entropy("abcd") == pytest.approx(8)
