"""Search streams of bytes for many patterns at once.

Any occurrence of seven bytes contains one of four words of four bytes at a position that is divisible by four. One pass
over the aligned words of the data therefore finds candidates for all patterns.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    import numpy as np

WORD, WINDOW = 4, 7  # bytes
LONGEST = 256  # bytes of a pattern that are compared
BLOCK = 1 << 19  # bytes that are searched at a time
TABLE_BITS = 18
MULTIPLIER = 2654435761  # spreads words over the table


class PatternSearch:
    """A search for secrets, as they are and in the usual encodings.

    Args:
        secrets: Where each secret is kept, by its value.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        import numpy as np

        self._places = {pattern: place for secret, place in secrets.items() for pattern in encodings(secret)}
        self._by_word: dict[int, list[tuple[bytes, int]]] = {}
        for pattern in self._places:
            # The end of a secret is more random than its beginning.
            for offset in range(len(pattern) - WINDOW, len(pattern) - WINDOW + WORD):
                word = int.from_bytes(pattern[offset : offset + WORD], "little")
                self._by_word.setdefault(word, []).append((pattern, offset))
        self._words = np.array(sorted(self._by_word), np.uint32)
        self._table = np.zeros(1 << TABLE_BITS, bool)
        self._table[self._hash(self._words)] = True
        self._overlap = max(map(len, self._places), default=1) - 1

    def find(self, blocks: Iterable[bytes]) -> str | None:
        """Return where the first secret in the blocks, which follow each other, is kept; None if there is none."""
        tail = b""
        for block in blocks:
            data = tail + block
            if (place := self._find_in(data)) is not None:
                return place
            tail = data[len(data) - min(len(data), self._overlap) :]
        return None

    def _find_in(self, data: bytes) -> str | None:
        import numpy as np

        words = np.frombuffer(data, "<u4", len(data) // WORD)
        candidates = np.flatnonzero(self._table[self._hash(words)])
        candidates = candidates[np.isin(words[candidates], self._words)]
        for index in candidates.tolist():
            for pattern, offset in self._by_word[int(words[index])]:
                start = WORD * index - offset
                if start >= 0 and data.startswith(pattern, start):
                    return self._places[pattern]
        return None

    @staticmethod
    def _hash(words: np.ndarray) -> np.ndarray:
        return (words * words.dtype.type(MULTIPLIER)) >> words.dtype.type(32 - TABLE_BITS)


def read_blocks(file: IO[bytes]) -> Iterable[bytes]:
    """Yield the rest of a file in blocks."""
    while block := file.read(BLOCK):
        yield block


def encodings(secret: str) -> set[bytes]:
    """Return the secret as UTF-8, UTF-16, base64 (wherever it begins), in a URL, and in JSON."""
    raw = secret.encode("utf-8", "surrogateescape")
    found = {raw, secret.encode("utf-16-le", "surrogatepass"), quote(raw, safe="").encode()}
    found.add(json.dumps(secret)[1:-1].encode("utf-8", "surrogatepass"))
    for shift, first in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * shift + raw)
        inside = encoded[first : (shift + len(raw)) * 8 // 6]  # characters that no neighboring byte changes
        found |= {inside, inside.translate(bytes.maketrans(b"+/", b"-_"))}
    return {pattern[-LONGEST:] for pattern in found if len(pattern) > WINDOW}
