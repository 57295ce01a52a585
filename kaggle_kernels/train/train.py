"""Training kernel: unpack gatemask and the session's task from this very file, and run the session.

`gatemask push` fills in the three constants. The payload is a zip, compressed as a whole, with the package, the
resolved YAMLs, the folds and session.json. If it is too large for a kernel's source, it comes in an attached dataset as
payload.bin. GATEMASK_KAGGLE names a stand-in for /kaggle, for rehearsals.
"""

import base64
import hashlib
import io
import lzma
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path

STARTED = time.monotonic()
KAGGLE = Path(os.environ.get("GATEMASK_KAGGLE", "/kaggle"))
PUSH = ""
SHA256 = ""
PAYLOAD = ""


def payload() -> bytes:
    """Return the compressed payload, from this file or from the dataset that holds it."""
    if PAYLOAD:
        candidates = [base64.b85decode(PAYLOAD)]
    else:
        patterns = ["/".join(["*"] * depth) + "/payload.bin" for depth in range(1, 6)]
        candidates = [path.read_bytes() for glob in patterns for path in sorted((KAGGLE / "input").glob(glob))]
    for candidate in candidates:
        if hashlib.sha256(candidate).hexdigest() == SHA256:
            return candidate
    sys.exit(f"push {PUSH}: no payload with SHA-256 {SHA256} among the {len(candidates)} payloads in this kernel")


def main() -> None:
    project = Path(tempfile.mkdtemp(prefix="gatemask-"))
    with zipfile.ZipFile(io.BytesIO(lzma.decompress(payload()))) as packed:
        packed.extractall(project)
    sys.path.insert(0, str(project / "lib"))
    from gatemask.kaggle.train.session import run_session

    sys.exit(run_session(project, KAGGLE, STARTED))


if __name__ == "__main__":
    main()
