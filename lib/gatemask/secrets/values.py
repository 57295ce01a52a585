"""Find secret values in settings and texts, and tell them from ordinary words."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import unquote

SHORTEST = 8  # characters; shorter values would match by chance
LEAST_BITS = 20.0  # Shannon entropy of a value, over all of its characters
LEAST_BITS_OF_LETTERS = 54.0  # of a value without digits: of one word, or of a passphrase of at least so many words
LEAST_WORDS = 3

SECRET_NAME = re.compile(
    r"KEY(?!BOARD|MAP|STROKE)|TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH(?!OR)|AUTHORIZATION|JWT|BEARER|COOKIE|WEBHOOK|PRIVATE|SALT|CONN(ECTION)?_?STR"
    r"|(^|_)(PAT|DSN|PIN|CREDS?|SAS|SIG)($|_|\d)",
    re.IGNORECASE,
)
# Names that look as if they held a secret, but hold something public.
PUBLIC_NAME = re.compile(
    r"^(OLD)?PWD$|(?<!HOOK)_UR[IL]$|_(FILE|PATH|DIR|SOCK|ID|TYPE|NAME|ALGORITHM|HEADER|SCOPE|PROJECT|REGION|HOST|USER"
    r"|LOGIN|EMAIL|DOMAIN)S?$|^TOKENIZERS_|^PUBLIC_|_PUBLIC(_|$)",
    re.IGNORECASE,
)
ASSIGNMENT = re.compile(
    r"""(?<![\w.-])["']?([A-Za-z_][\w.-]*)["']?[ \t]*(?:=>|:=|=|:)[ \t]*(?=("[^"]*"|'[^']*'|[^\s"']\S*))"""
)
REST_OF_LINE = re.compile(r"""^[\s#;]*(?:export\s+|set\s+)?["']?([A-Za-z_][\w.-]*)["']?[ \t]*[=:][ \t]*(.*?)[\s,;]*$""")
URL_PASSWORD = re.compile(r"\b[A-Za-z][\w+.-]*://([^\s:/@\"']*):([^\s\"']+)@([^\s/@\"']+)")
# Parts of connection strings: AccountKey=...;Pwd=...
PART = re.compile(r"(?i)\b\w*(?:key|token|secret|password|passwd|pwd|signature|sig)=([^\s;&\"']+)")
# Tokens that show their kind, whatever the setting is called.
TOKEN = re.compile(
    r"\b(?:gh[a-z]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|AIza[\w-]{30,}|ya29\.[\w.-]{20,}|hf_\w{20,}|KGAT_\w{8,}|npm_\w{30,}|pypi-[\w-]{30,}|sk-[\w-]{20,}"
    r"|(?:sk|rk)_(?:live|test)_\w{16,}|SG\.[\w-]{16,}\.[\w-]{16,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)
# The last part of an address, with which anyone can post as its owner.
WEBHOOK = re.compile(
    r"https://(?:hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)|(?:\w+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks)"
    r"/[\w/-]*/([\w-]{16,})"
)
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)(?:-----END|$)", re.DOTALL)
RANDOM_WORD = re.compile(r"[A-Za-z0-9+/=_-]{16,}")


def is_random(value: str) -> bool:
    """Return whether a value is random enough to be searched for: not short, repetitive, or made of a few words.

    >>> is_random("segmentation"), is_random("out-of-fold"), is_random("DatabasePassword"), is_random("aaaaaaaaaa1")
    (False, False, False, False)
    >>> is_random("hunter2!hunter"), is_random("correct-horse-battery-staple"), is_random("qzjvkxwpfhgtbmrd")
    (True, True, True)
    """
    if len(value) < SHORTEST or entropy(value) < LEAST_BITS:
        return False
    if value.isdigit():
        return len(value) >= 2 * SHORTEST  # shorter numbers are dates and sizes
    if any(character.isdigit() for character in value):
        return True
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", value)
    if re.sub(r"[A-Za-z _.:/,-]", "", value):  # signs that join no words
        return True
    candidates = [*words, value] if len(words) >= LEAST_WORDS else words
    return any(entropy(candidate) >= LEAST_BITS_OF_LETTERS for candidate in candidates)


def entropy(text: str) -> float:
    """Return the Shannon entropy of the text's characters, in bits, times their number."""
    counts = Counter(text)
    return -sum(count * math.log2(count / len(text)) for count in counts.values())


def is_secret_name(name: str) -> bool:
    """Return whether a setting of this name holds a secret.

    >>> [is_secret_name(name) for name in ("DB_PASS", "GITHUB_PAT", "MYSQL_PWD", "aws.secret", "PATH", "PWD")]
    [True, True, True, True, False, False]
    """
    return bool(SECRET_NAME.search(name)) and not PUBLIC_NAME.search(name)


def secrets_in_setting(name: str, value: str) -> Iterator[str]:
    """Yield the secrets in one setting: its value if the name says so, and whatever shows that it is secret."""
    if name == "GATEMASK_NOTIFY_URL" and "://ntfy." not in value:  # a topic of ntfy is a name
        yield from (part for part in re.split(r"[/?&=]", value)[3:] if len(part) >= SHORTEST)
    if is_secret_name(name):
        yield value
        if "auth" in name.lower():  # base64 of user:password
            yield from _passwords_of_basic_auth(value)
    yield from recognizable_secrets(value)


def recognizable_secrets(text: str) -> Iterator[str]:
    """Yield what is secret whatever it is called: passwords in URLs, tokens of known kinds, private keys."""
    for user, password, host in URL_PASSWORD.findall(text):
        yield from {password, unquote(password)}
        yield f"{user}:{password}@{host}"  # the password alone may be too short to be searched for
    yield from PART.findall(text)
    yield from TOKEN.findall(text)
    yield from WEBHOOK.findall(text)
    for body in PRIVATE_KEY.findall(text):
        lines = [line.strip() for line in body.replace("\\n", "\n").splitlines()]
        yield from [line for line in lines if len(line) >= 24][1:]  # the first line is the same for many keys


def secrets_in_text(text: str) -> Iterator[str]:
    """Yield the secrets in a file of settings: .env, INI, TOML, YAML, JSON or a script; comments are read too."""
    values = _json(text)
    if values is not None:
        yield from _secrets_in_json(values, "")
        return
    yield from recognizable_secrets(text)
    for line in text.splitlines():
        for name, value in ASSIGNMENT.findall(line):
            yield from secrets_in_setting(name, value.strip("\"',;"))
        if match := REST_OF_LINE.match(line):  # values may contain blanks
            for value in (match[2], match[2].partition(" #")[0].rstrip()):
                yield from secrets_in_setting(match[1], value.strip("\"'"))
        _, is_comment, comment = line.partition("#")
        if is_comment:
            yield from [word for word in RANDOM_WORD.findall(comment) if re.search(r"\d", word) and word.isalnum()]


def secrets_in_netrc(text: str) -> Iterator[str]:
    """Yield the passwords of all entries, wherever their lines break."""
    for quoted, plain in re.findall(r"\b(?:password|account)\s+(?:\"([^\"]*)\"|(\S+))", text):
        yield quoted or plain


def secrets_in_pgpass(text: str) -> Iterator[str]:
    """Yield the last fields of host:port:database:user:password."""
    for line in text.splitlines():
        if len(fields := re.split(r"(?<!\\):", line.strip(), maxsplit=4)) == 5:
            yield re.sub(r"\\(.)", r"\1", fields[4])


def secrets_in_token_file(text: str) -> Iterator[str]:
    """Yield the content of a file that is nothing but a token; else what `secrets_in_text` finds."""
    if len(text.split()) == 1 and _json(text) is None:
        yield text.strip()
    else:
        yield from secrets_in_text(text)


def secrets_in_kaggle_file(text: str) -> Iterator[str]:
    """Yield all values of Kaggle's credentials but the user's name."""
    values = _json(text)
    if isinstance(values, dict):
        yield from (v for k, v in values.items() if k not in ("username", "user_name") and isinstance(v, str))
    yield from secrets_in_token_file(text)


def _json(text: str) -> object:
    try:
        values: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict | list) else None


def _secrets_in_json(value: object, name: str) -> Iterator[str]:
    """Yield the secrets in nested values; a name counts for everything below it, unless the last one is public."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets_in_json(inner, f"{name}_{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _secrets_in_json(inner, name)
    elif isinstance(value, str):
        yield from secrets_in_setting(name, value)


def _passwords_of_basic_auth(value: str) -> Iterator[str]:
    try:
        decoded = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return
    if ":" in decoded:
        yield decoded.partition(":")[2]
