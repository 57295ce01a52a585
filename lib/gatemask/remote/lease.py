"""The right to write a stage to the remote, held by one machine at a time and lost by a machine that dies.

    .locks/<path of the stamp>/<number>    who holds it; written again every RENEW_S seconds, and when it is given back

The object with the highest number counts. The next holder creates the next number, with a write that fails if the
object exists: of several machines that try, one succeeds. It may do so when the holder has given its lease back, when
the holder was a process of this machine that has ended, or when the lease was not renewed for LEASE_S seconds by the
clock of the remote.

A machine that was only paused finds a higher number when it wakes, and uploads nothing more. A single upload that had
begun before the pause may still end. Its file then has another hash than the stamp lists, so it is never believed.
"""

from __future__ import annotations

import json
import math
import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import is_running
from gatemask.remote.objects import Object, Objects, RemoteError

LEASE_S = float(os.environ.get("GATEMASK_LEASE_S", 120))
RENEW_S = LEASE_S / 4
LOOK_S = 1.0  # between two looks at the lease of another process
PATIENCE_S = 3.0  # before a wait is reported
FOLDER = ".locks"


class LostLeaseError(GatemaskError):
    """Another machine took over a stage."""


class Lease:
    """A lease of a stage; a context manager that holds it.

    Args:
        objects: Objects of the remote.
        key: Path of the stage's stamp in the remote.
        busy: Error message if another machine holds it.
    """

    def __init__(self, objects: Objects, key: str, busy: str) -> None:
        self._objects, self._busy = objects, busy
        self._folder = f"{FOLDER}/{key}"
        self._token = uuid.uuid4().hex
        self._number = 0
        self._end = threading.Event()
        self._first_beats: dict[tuple[int, object], object] = {}  # of other holders, as first seen

    def __enter__(self) -> Lease:
        reported_at = time.monotonic() + PATIENCE_S
        while not self._try():
            if time.monotonic() > reported_at:
                say(f"{self._busy} Waits until its lease is renewed or expires, {LEASE_S:.0f} s at most.")
                reported_at = math.inf
            time.sleep(LOOK_S)
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        with suppress(GatemaskError):  # it expires
            if self._highest()[0] == self._number:
                self._objects.write(self._name(self._number), self._text(given_back=True))

    def check(self) -> None:
        """Raise if another machine holds the lease now.

        Raises:
            LostLeaseError: It does.
            RemoteError: The remote cannot be asked.
        """
        number, _ = self._highest()
        if number != self._number:
            raise LostLeaseError(
                "Another machine took over this stage, because this one did not renew its lease in time.",
                where=f"{self._objects.url}/{self._folder}",
                received=self._holder(number),
                do="Let it finish. The files here are kept; the next command compares them with those of the remote.",
            )

    def _try(self) -> bool:
        """Take the lease if it is free. Returns False if another process may still hold it.

        Raises:
            GatemaskError: Another machine holds it.
        """
        number, latest = self._highest()
        if latest is not None and not self._is_free(number, latest):
            return False
        mine = number + 1
        self._objects.create(self._name(mine), self._text())
        # Whose it is says the object itself: a request that was sent twice finds its own, and is refused.
        if self._read(mine).get("token") != self._token:
            return False
        if self._highest()[0] != mine:  # an older number that had been removed
            return False
        self._number = mine
        self._objects.delete([self._name(old) for old in self._numbers() if old < mine])
        return True

    def _is_free(self, number: int, latest: Object) -> bool:
        """Return whether a lease may be taken. Waits until it is renewed or expires.

        Raises:
            GatemaskError: It was renewed while this process waited.
        """
        holder = self._read(number)
        if holder.get("given_back") or _has_ended(holder):
            return True
        age_s = (self._now_ns() - latest.modified_ns) / 1e9
        if age_s > LEASE_S:
            return True
        first = self._first_beats.setdefault((number, holder.get("token")), holder.get("beat"))
        if holder.get("beat") != first:
            raise GatemaskError(
                self._busy,
                where=f"{self._objects.url}/{self._folder}",
                received=self._holder(number),
                do="Wait until it ends, or stop it.",
            )
        return False

    def _renew(self) -> None:
        while not self._end.wait(RENEW_S):
            with suppress(RemoteError, OSError):  # tried again; `check` finds out what became of it
                if self._highest()[0] == self._number:
                    self._objects.write(self._name(self._number), self._text())

    def _now_ns(self) -> int:
        """Return the time by the clock of the remote."""
        key = f"{FOLDER}/clock-{self._token}"
        self._objects.write(key, b"")
        now = self._objects.list(FOLDER, depth=1)[key].modified_ns
        self._objects.delete([key])
        return now

    def _numbers(self) -> dict[int, Object]:
        listed = self._objects.list(self._folder, depth=1)
        return {int(name): each for key, each in listed.items() if (name := Path(key).name).isdigit()}

    def _highest(self) -> tuple[int, Object | None]:
        numbers = self._numbers()
        highest = max(numbers, default=0)
        return highest, numbers.get(highest)

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:06d}"

    def _read(self, number: int) -> dict[str, object]:
        try:
            holder = json.loads(self._objects.read(self._name(number)) or b"{}")
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}

    def _holder(self, number: int) -> str:
        return str(self._read(number).get("holder", "unknown"))

    def _text(self, given_back: bool = False) -> bytes:
        fields = {
            "holder": f"process {os.getpid()} on {platform.node()}",
            "process": os.getpid(),
            "machine": _machine(),
            "token": self._token,
            "beat": time.time(),
            "given_back": given_back,
        }
        return json.dumps(fields).encode()


def _machine() -> str:
    """Return what identifies the processes that this one can see: host, boot and namespace of process ids."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _has_ended(holder: dict[str, object]) -> bool:
    """Return whether a lease belongs to a process of this machine that has ended."""
    process = holder.get("process")
    return holder.get("machine") == _machine() and isinstance(process, int) and not is_running(process)
