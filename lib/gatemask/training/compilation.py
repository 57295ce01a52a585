"""Compile once: keep what JAX compiles on disk, and choose XLA's flags.

<root>/data/.compiled/<machine>/    one folder per kind of machine: code for one CPU may crash on another
    *-cache                         a compiled function; its name is a hash of the function, the flags and the versions
    xla_gpu_per_fusion_autotune_cache_dir/   GPUs: which kernels were the fastest
    checked.json                    size of each entry that was found whole

The folder is a cache: it may be deleted at any time, and nothing that is wrong with it stops a training. TensorFlow
has no such cache: each process builds its graph again.
"""

from __future__ import annotations

import os
import platform
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, read_json_object, write_json

LIMIT_BYTES = 2_000_000_000  # of the folder of one machine
FREE_BYTES = 500_000_000  # with less free space, nothing is written: XLA may fail where it cannot write
LEAST_COMPILE_S = 0.1  # what compiles faster is not kept: a U-Net's step is one entry beside hundreds of trifles
ENTRIES, CHECKED = "*-cache", "checked.json"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CHUNK_BYTES = 1 << 20


def set_xla_flags(accelerator: str, deterministic: bool) -> None:
    """Add XLA's flags for a machine to XLA_FLAGS, except those that the user has set. Call it before JAX is imported.

    On GPUs, XLA would time every kernel in several variants before the first step. That takes minutes for a U-Net, and
    each process may choose differently, so a resumed training would not repeat the same sums. Level 0 chooses by
    rule; `XLA_FLAGS=--xla_gpu_autotune_level=4` brings XLA's own default back.

    Args:
        accelerator: "tpu", "gpu" or "cpu".
        deterministic: Whether each operation must give the same result in every run.
    """
    wanted = ["--xla_gpu_autotune_level=0"] if accelerator == "gpu" else []
    if accelerator == "gpu" and deterministic:
        wanted.append("--xla_gpu_deterministic_ops=true")
    flags = os.environ.get("XLA_FLAGS", "").split()
    if flags and not flags[0].startswith("-"):
        return  # the name of a file of flags, to which nothing can be added
    present = {flag.split("=")[0] for flag in flags}
    added = [flag for flag in wanted if flag.split("=")[0] not in present]
    if added:
        os.environ["XLA_FLAGS"] = " ".join([*flags, *added])


def keep_compiled(folder: Path, accelerator: str) -> None:
    """Let JAX read compiled functions from a folder, and write new ones to it. Call it before anything is compiled.

    A folder that cannot be written is read all the same. With JAX_COMPILATION_CACHE_DIR, the user's own cache is used
    instead, with the user's settings.

    Args:
        folder: Folder of compiled functions; made if it does not exist.
        accelerator: "tpu", "gpu" or "cpu".
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    place = folder / machine_name(accelerator)
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        place = place.resolve()  # a kernel's project lies elsewhere in each session, and links to one place
    writable = _is_writable(place)
    if writable:
        with suppress(OSError, GatemaskError):
            remove_damaged(place)
            remove_oldest(place)
    if jax.config.values["jax_compilation_cache_dir"] not in (None, str(place)):
        compilation_cache.reset_cache()  # it keeps the folder that it began with
    jax.config.update("jax_compilation_cache_dir", str(place) if place.is_dir() else None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_COMPILE_S if writable else float("inf"))
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    jax.config.update("jax_raise_persistent_cache_errors", False)
    # The path of this folder becomes part of each entry's name, so it is asked for only where it is of use: elsewhere a
    # project can move, or be continued in another kernel.
    autotuned = "xla_gpu_per_fusion_autotune_cache_dir" if accelerator == "gpu" and writable else "none"
    jax.config.update("jax_persistent_cache_enable_xla_caches", autotuned)
    # Of an entry that cannot be read or written: it is compiled again.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")


def machine_name(accelerator: str) -> str:
    """Return the name of a machine's folder: machines that share it can run each other's compiled functions."""
    if accelerator != "cpu":
        return accelerator
    described = [platform.machine(), platform.processor()]
    with suppress(OSError):  # systems without /proc
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        described += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return f"cpu-{fingerprint(described)[:8]}"


def remove_damaged(place: Path) -> None:
    """Remove entries that were not written to the end. JAX would fail to read them, and never replace them.

    Each entry is read in full once; later, only its size is compared.

    Args:
        place: Folder of a machine.
    """
    try:
        checked = read_json_object(place / CHECKED)
    except (OSError, GatemaskError):
        checked = {}
    sizes: dict[str, int] = {}
    for path, status in _entries(place):
        if checked.get(path.name) == status.st_size or is_whole(path):
            sizes[path.name] = status.st_size
        else:
            path.unlink(missing_ok=True)
    if sizes != checked:
        write_json(place / CHECKED, sizes)


def remove_oldest(place: Path, limit: int = LIMIT_BYTES) -> None:
    """Remove the entries that were not used for the longest time, until the others fit.

    Args:
        place: Folder of a machine.
        limit: Size of all entries, in bytes. Default: LIMIT_BYTES.
    """
    entries = sorted(_entries(place), key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime))
    total = sum(status.st_size for _, status in entries)
    for path, status in entries:
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= status.st_size


def is_whole(path: Path) -> bool:
    """Return whether an entry can be decompressed to its end."""
    data = path.read_bytes()
    if not data.startswith(ZSTD_MAGIC):
        return _ends(zlib.decompressobj(), data, zlib.error)
    try:
        import zstandard
    except ImportError:  # then JAX does not read it either
        return True
    return _ends(zstandard.ZstdDecompressor().decompressobj(), data, zstandard.ZstdError)


def _ends(decompressor: Any, data: bytes, damaged: type[Exception]) -> bool:
    try:
        for start in range(0, len(data), CHUNK_BYTES):  # what comes out is not kept
            decompressor.decompress(data[start : start + CHUNK_BYTES])
    except damaged:
        return False
    return bool(decompressor.eof)


def _entries(place: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in sorted(place.glob(ENTRIES)):
        with suppress(FileNotFoundError):  # removed by another process
            yield path, path.stat()


def _is_writable(place: Path) -> bool:
    try:
        return os.access(place, os.W_OK | os.X_OK) and shutil.disk_usage(place).free >= FREE_BYTES
    except OSError:
        return False
