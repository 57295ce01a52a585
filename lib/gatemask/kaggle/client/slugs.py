"""Names of kernels and datasets on Kaggle."""

from __future__ import annotations

import hashlib
import re

LONGEST_SLUG = 50  # characters of a title, and so of a slug


def kaggle_slug(*parts: str, longest: int = LONGEST_SLUG) -> str:
    """Return a name as Kaggle makes it from a title: lowercase letters, digits and dashes.

    Longer names are cut and end in a hash that keeps them apart.

    Args:
        parts: Parts of the name, after "gatemask".
        longest: Maximum length, in characters. Default: 50, Kaggle's limit.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", "-".join(["gatemask", *parts]).lower()).strip("-")
    if len(plain) <= longest:
        return plain
    return f"{plain[: longest - 7].rstrip('-')}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"
