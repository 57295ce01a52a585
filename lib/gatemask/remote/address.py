"""The address of the remote: environment variable GATEMASK_REMOTE, such as s3://bucket/folder.

Credentials, regions and endpoints come from the configuration of the file system itself, such as ~/.aws or
AWS_ENDPOINT_URL; gatemask neither reads nor writes them.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gatemask.errors import GatemaskError
from gatemask.optional import require

if TYPE_CHECKING:
    import fsspec

VARIABLE = "GATEMASK_REMOTE"
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}  # what fsspec needs, by protocol
PLAIN = {"file", "local", "memory"}  # protocols that need no credentials


def remote_url() -> str | None:
    """Return the address of the remote, without a slash at its end; None if none is set.

    Raises:
        GatemaskError: The address is not a URL, or contains credentials.
    """
    url = os.environ.get(VARIABLE, "").strip().rstrip("/")
    if not url:
        return None
    match = re.fullmatch(r"([a-z0-9+]+)://(.+)", url)
    if match is None:
        raise GatemaskError(
            "The address of the remote is not a URL.",
            where=f"environment variable {VARIABLE}",
            received=url,
            expected="such as s3://bucket/folder, gs://bucket/folder or file:///shared/folder",
        )
    if "@" in match[2].split("/")[0] or "?" in url:
        raise GatemaskError(
            "The address of the remote contains credentials or options.",
            where=f"environment variable {VARIABLE}",
            expected="protocol, bucket and folder alone",
            do="Remove them: credentials come from the configuration of the cloud, such as ~/.aws/credentials.",
        )
    return url


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a remote, and the path of its folder there.

    Raises:
        GatemaskError: A package is missing, or the protocol is unknown.
    """
    protocol = url.split("://")[0]
    for package in filter(None, ("fsspec", PACKAGES.get(protocol))):
        require(package, f"A remote with {protocol}://")
    # By its name: inference reaches this module, without a remote, in images that need not have the package.
    core = import_module("fsspec.core")
    try:
        # A remembered listing would hide what other machines write.
        options: dict[str, Any] = {} if protocol in PLAIN else {"use_listings_cache": False}
        opened: tuple[fsspec.AbstractFileSystem, str] = core.url_to_fs(url, **options)
        return opened
    except (ImportError, ValueError) as error:
        raise GatemaskError(
            "The remote cannot be opened.", where=f"environment variable {VARIABLE}", received=f"{url}: {error}"
        ) from None
