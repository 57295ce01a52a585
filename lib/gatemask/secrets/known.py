"""List the secrets that this machine holds: in the environment, .env files, netrc and the usual credential files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from gatemask.secrets import values

LARGEST = 1 << 20  # bytes that are read of a file
EXAMPLES = (".example", ".sample", ".template", ".dist")  # .env files with placeholders, under version control
# Below the home folder. Each is a file, or a pattern of files.
SETTINGS = (
    ".aws/credentials",
    ".aws/config",
    ".azure/*.json",
    ".boto",
    ".cdsapirc",
    ".config/gcloud/*.db",
    ".config/gcloud/*.json",
    ".config/gcloud/legacy_credentials/*/*",
    ".config/gh/hosts.yml",
    ".config/git/credentials",
    ".config/hub",
    ".config/rclone/rclone.conf",
    ".config/wandb/settings",
    ".config/openai/*",
    ".databrickscfg",
    ".docker/config.json",
    ".git-credentials",
    ".gitconfig",
    ".kube/config",
    ".my.cnf",
    ".npmrc",
    ".pypirc",
    ".s3cfg",
    ".snowflake/*.toml",
    ".ssh/id_*",
    ".ssh/*.pem",
    ".streamlit/secrets.toml",
    ".terraform.d/credentials.tfrc.json",
    ".vault-token",
)
TOKENS = (".cache/huggingface/token", ".huggingface/token", ".vault-token", ".comet.config", ".neptune/token")
# In the project's and the present folder, next to .env files.
IN_PROJECT = ("*secret*", "*credential*", ".streamlit/secrets.toml", "service*account*.json", ".netrc")
READABLE = (".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".env", ".txt", ".conf", "")

Reader = Callable[[str], Iterator[str]]


def known_secrets(root: Path) -> dict[str, str]:
    """Return where each secret is kept, by its value.

    Values that are short or consist of ordinary words are left out: they would be found everywhere.

    Args:
        root: Project folder.
    """
    secrets: dict[str, str] = {}
    for place, value in _candidates(root):
        if values.is_random(value := value.strip()):
            secrets.setdefault(value, place)
    return secrets


def _candidates(root: Path) -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if name.upper() in ("PWD", "OLDPWD"):
            continue
        if (path := _existing_path(value)) is None:
            yield from ((name, secret) for secret in values.secrets_in_setting(name, value))
        elif values.SECRET_NAME.search(name) and path.is_file():  # DB_PASSWORD_FILE, GOOGLE_APPLICATION_CREDENTIALS
            yield from ((f"{name}, {path}", secret) for secret in _read(path, values.secrets_in_token_file))
    for path, reader in _files(root):
        yield from ((str(path), secret) for secret in _read(path, reader))


def _files(root: Path) -> Iterator[tuple[Path, Reader]]:
    """Yield the files in which secrets are usually kept, with the function that reads them."""
    home, variables = Path.home(), os.environ
    for folder in dict.fromkeys([root, Path.cwd()]):
        for pattern in (".env*", "*.env", *IN_PROJECT):
            for path in sorted(folder.glob(pattern)):
                named = path.suffix in READABLE or path.name.startswith((".env", ".netrc"))
                if named and not path.name.endswith(EXAMPLES):
                    yield path, values.secrets_in_netrc if path.name == ".netrc" else values.secrets_in_text
    for path in kaggle_credential_files():
        yield path, values.secrets_in_kaggle_file
    for netrc in dict.fromkeys([variables.get("NETRC") or home / ".netrc", home / ".netrc", home / "_netrc"]):
        yield Path(netrc), values.secrets_in_netrc
    yield Path(variables.get("PGPASSFILE") or home / ".pgpass"), values.secrets_in_pgpass
    for pattern in SETTINGS:
        yield from ((path, values.secrets_in_text) for path in sorted(home.glob(pattern)))
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "KUBECONFIG", "BOTO_CONFIG", "RCLONE_CONFIG"):
        if variables.get(name):
            yield Path(variables[name]), values.secrets_in_text
    for name in TOKENS:
        yield home / name, values.secrets_in_token_file
    if variables.get("HF_HOME"):
        yield Path(variables["HF_HOME"]) / "token", values.secrets_in_token_file


def kaggle_credential_files() -> list[Path]:
    """Return the files in which the kaggle command looks for credentials."""
    usual, variables = Path.home() / ".kaggle", os.environ
    config = Path(variables.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    chosen = Path(variables.get("KAGGLE_CONFIG_DIR") or config)
    names = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
    return list(dict.fromkeys([*(usual / name for name in names), chosen / "kaggle.json"]))


def _existing_path(value: str) -> Path | None:
    """Return the value as a path if there is such a file or folder, such as the file that holds the key."""
    try:
        return path if (path := Path(value)).exists() else None
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return None


def _read(path: Path, reader: Reader) -> Iterator[str]:
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            text = file.read(LARGEST).decode("utf-8", "replace")
    except OSError:
        return
    yield from reader(text)
