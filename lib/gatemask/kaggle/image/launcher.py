"""Run a command in namespaces of its own: python -I -S launcher.py LEVEL PARENT COMMAND...

LEVEL is one of

    view      no network, only the files that the command needs, no other processes, no privileges
    network   no network, no privileges
    plain     nothing is cut off

At every level the command dies with the process PARENT, even if that is killed. This file imports only the standard
library, and runs as a script: it must start in milliseconds, and a process with threads cannot enter namespaces.

The files of the level `view` are derived from the command and the environment. It sees the system's programs and
libraries, its interpreter with the packages that are linked there, its script, and GATEMASK_KAGGLE with what the links
in it point to, all of it read-only. It may write to GATEMASK_KAGGLE/working, TMPDIR and HOME, and to a file system in
memory at /. Nothing else of this machine exists there, such as home folders, projects or sockets.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
CAPABILITY_VERSION = 0x20080522
FAILED = 125  # exit code if the namespaces cannot be set up

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/sys")
IN_ETC = (
    *("alternatives", "ca-certificates", "fonts", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("localtime", "mime.types", "nsswitch.conf", "passwd", "pki", "ssl", "timezone"),
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Caller:
    """Calls of the C library that raise OSError."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)

    def __call__(self, name: str, *arguments: object) -> None:
        given = [os.fsencode(argument) if isinstance(argument, str) else argument for argument in arguments]
        if name == "prctl":
            given = [ctypes.c_ulong(argument) if isinstance(argument, int) else argument for argument in given]
        if getattr(self._library, name)(*given) < 0:
            number = ctypes.get_errno()
            about = ", ".join(argument for argument in arguments if isinstance(argument, str))
            raise OSError(number, f"{name}({about}): {os.strerror(number)}")

    def mount(self, source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
        self("mount", source, target, kind, ctypes.c_ulong(flags), options)


def main(level: str, parent: int, command: list[str]) -> int:
    """Run the command, and return its exit code, or minus the number of the signal that ended it."""
    if level == "plain":
        return run_plainly(parent, command, None)
    call = Caller()
    die_with_parent(call, signal.SIGKILL, parent)
    if level == "network":
        enter(call, CLONE_NEWNET)
        drop_privileges(call)
        return run_plainly(parent, command, call)
    files = View(command, os.environ)  # before anything is hidden
    enter(call, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
    die_with_parent(call, signal.SIGKILL, parent)  # entering a namespace may reset this
    alive, held = os.pipe()
    first = os.fork()
    if not first:
        os.close(held)
        run_inside(call, alive, files, command)
    return wait(first)  # this process stays outside: those inside see neither it nor its parent


def run_inside(call: Caller, alive: int, files: View, command: list[str]) -> None:
    """Run the command as the second process of the new namespaces, and end with its exit code.

    This is the first one: signals do not end it by accident, and all others end with it.
    """
    with ended_by(FAILED):
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        os.set_blocking(alive, False)
        with contextlib.suppress(BlockingIOError):
            if os.read(alive, 1) == b"":
                return  # the process outside ended before this one could be tied to it
        os.close(alive)
        files.mount(call)
        drop_privileges(call)
        child = os.fork()
        if not child:
            os.execvp(command[0], command)
        os._exit(encode(wait(child)))


def run_plainly(parent: int, command: list[str], call: Caller | None) -> int:
    """Run the command in a process group that is killed when the process `parent` ends."""
    if call is None and sys.platform == "linux":
        call = Caller()
    child = os.fork()
    if not child:
        with ended_by(FAILED):
            if call is not None:
                call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
            os.execvp(command[0], command)

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
        os.killpg(0, signal.SIGKILL)

    if call is not None and os.getpgrp() == os.getpid():  # not in the group of the process that ends
        signal.signal(signal.SIGTERM, end)
        die_with_parent(call, signal.SIGTERM, parent)
    return wait(child)


def die_with_parent(call: Caller, number: int, parent: int) -> None:
    """Get a signal when the parent ends, however it ends."""
    call("prctl", PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def ended_by(code: int) -> Iterator[None]:
    """End this forked process with an exit code after any error."""
    try:
        yield
    except BaseException as error:
        print(f"The sandbox cannot be set up: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Wait for a child, and for all that it leaves to this process; return the child's exit code."""
    while True:
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status)


def encode(code: int) -> int:
    """Return an exit code as shells do: 128 and the number of the signal."""
    return code if code >= 0 else 128 - code


# --- privileges ---------------------------------------------------------------------------------------------


def enter(call: Caller, namespaces: int) -> None:
    """Enter new namespaces and a user namespace that owns them, keeping this user and group."""
    user, group = os.geteuid(), os.getegid()
    try:
        call("unshare", CLONE_NEWUSER | namespaces)
    except OSError:
        if user:
            raise
        call("unshare", namespaces)  # root can do without a user namespace where they are switched off
        return
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def drop_privileges(call: Caller) -> None:
    """Give up all capabilities, for this process and all that it starts: no namespace can be left without them."""
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(64):
        with contextlib.suppress(OSError):  # fewer exist
            call("prctl", PR_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())


# --- files --------------------------------------------------------------------------------------------------


class View:
    """Files that a command may see.

    Args:
        command: Interpreter and arguments, as absolute paths.
        environment: Its environment.
    """

    def __init__(self, command: list[str], environment: os._Environ[str]) -> None:
        self._readable: dict[str, str] = {}  # what is mounted, by where
        self._writable: set[str] = set()
        self._folder = str(Path.cwd())
        for name in (*SYSTEM, *(f"/etc/{name}" for name in IN_ETC)):
            self._show(name)
        if command[0].startswith("/"):
            self._show_interpreter(Path(command[0]))
        for argument in command[1:]:
            if argument.startswith("/") and len(argument) < 4096:
                self._show(argument)
        if kaggle := environment.get("GATEMASK_KAGGLE"):
            self._show_with_links(kaggle)
            self._allow(str(Path(kaggle) / "working"))
        for name in ("TMPDIR", "HOME"):
            if name in environment:
                self._allow(environment[name])

    def _show(self, path: str) -> None:
        path = os.path.normpath(path)
        if path != "/" and Path(path).exists():
            real = os.path.realpath(path)
            self._readable |= {path: real, real: real}

    def _show_target(self, link: str) -> None:
        """Show what a link points to, by the path that is written there, which may lead through other links."""
        self._show(os.path.join(os.path.dirname(link), os.readlink(link)))  # noqa: PTH115, PTH118, PTH120
        self._show(os.path.realpath(link))

    def _allow(self, path: str) -> None:
        path = os.path.normpath(path)
        if path != "/" and Path(path).is_dir():
            self._show(path)
            self._writable |= {path, os.path.realpath(path)}

    def _show_interpreter(self, python: Path) -> None:
        """Show an interpreter, the one that it is made from, and the packages that it links to."""
        environment = python.parent.parent
        self._show(str(python))
        settings = environment / "pyvenv.cfg"
        if not settings.exists():
            self._show(str(environment))
            return
        self._show(str(environment))
        for folder in ("bin", "lib/python*/site-packages"):
            for entry in environment.glob(f"{folder}/*"):
                if entry.is_symlink():
                    self._show_target(str(entry))
        lines = dict(line.partition("=")[::2] for line in settings.read_text().splitlines())
        home = next((value.strip() for key, value in lines.items() if key.strip() == "home"), "")
        for base in (home, str(python.resolve().parent)):
            if base:
                self._show(str(Path(base).parent))

    def _show_with_links(self, folder: str) -> None:
        """Show a folder, and what the links in it, and the links in those folders, point to."""
        self._show(folder)
        seen: set[str] = set()
        waiting = [folder]
        while waiting:
            for top, folders, files in os.walk(waiting.pop()):
                for name in (*folders, *files):
                    path = os.path.join(top, name)  # noqa: PTH118 - Path is slow over thousands of files
                    if os.path.islink(path) and (real := os.path.realpath(path)) not in seen:  # noqa: PTH114
                        seen.add(real)
                        self._show_target(path)
                        waiting.append(real)

    def mount(self, call: Caller) -> None:
        """Replace the root folder by an empty one in which only these files are mounted."""
        root = "/proc"  # any folder that exists: the new root is mounted over it, for this process only
        call.mount("none", "/", None, MS_REC | MS_PRIVATE)
        proc = os.open("/proc/self/mountinfo", os.O_RDONLY)  # a view of the mounts that survives
        call.mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        shown: list[str] = []
        for path, source in sorted(self._readable.items()):
            inside = any(path.startswith(f"{other}/") for other in shown)
            if inside and path not in self._writable:
                continue
            shown.append(path)
            self._bind(call, source, root + path)
            if path not in self._writable:
                self._make_readonly(call, root + path, proc)
        os.close(proc)
        self._mount_devices(call, root)
        for name in ("tmp", "proc"):
            Path(f"{root}/{name}").mkdir(exist_ok=True)
        call.mount("proc", f"{root}/proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
        os.chdir(root)
        call("pivot_root", ".", ".")
        call("umount2", ".", MNT_DETACH)
        os.chdir(self._folder if Path(self._folder).is_dir() else "/")

    @staticmethod
    def _bind(call: Caller, source: str, target: str) -> None:
        if Path(source).is_dir():
            Path(target).mkdir(parents=True, exist_ok=True)
        elif not Path(target).exists():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).touch()
        call.mount(source, target, None, MS_BIND | MS_REC)

    @staticmethod
    def _make_readonly(call: Caller, target: str, mounts: int) -> None:
        """Make a mount, and those below it, read-only; flags that were set outside cannot be taken away."""
        os.lseek(mounts, 0, os.SEEK_SET)
        text = b""
        while part := os.read(mounts, 1 << 16):
            text += part
        for line in text.decode(errors="surrogateescape").splitlines():
            point = line.split()[4].encode().decode("unicode_escape")
            if point == target or point.startswith(f"{target}/"):
                flags = os.statvfs(point).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
                call.mount("none", point, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)

    @staticmethod
    def _mount_devices(call: Caller, root: str) -> None:
        Path(f"{root}/dev/shm").mkdir(parents=True)
        call.mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV)
        for name in DEVICES:
            if Path(f"/dev/{name}").exists():
                Path(f"{root}/dev/{name}").touch()
                call.mount(f"/dev/{name}", f"{root}/dev/{name}", None, MS_BIND)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            Path(f"{root}/dev/{name}").symlink_to(f"/proc/self/fd/{number}")
        Path(f"{root}/dev/fd").symlink_to("/proc/self/fd")


if __name__ == "__main__":
    try:
        code = main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    except OSError as error:
        print(f"The sandbox cannot be set up: {error}", file=sys.stderr)
        code = FAILED
    sys.exit(encode(code))
