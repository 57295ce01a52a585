"""Run pieces on a Ray cluster: one task per piece, which Ray runs again elsewhere when its node is lost.

All nodes must see the project's folder under one path, as on a network file system: pieces read and write its files.
Each task verifies that before it begins. A piece that runs again resumes from what the lost node had written.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gatemask import __version__
from gatemask.console import VERBOSE, say
from gatemask.errors import GatemaskError
from gatemask.files import LOCK_WAIT, MACHINE, remove_strays, write_text
from gatemask.parallel import CORES
from gatemask.pieces.devices import Device
from gatemask.pieces.local import Local
from gatemask.pieces.piece import OnOutcome, Outcome, Piece, always, ignore

RETRIES = 50  # nodes that a piece may lose: spot machines end many times during a long training
LOOK_S = 5.0  # between two looks at the tasks
BUSY_S = 180.0  # in which processes of a lost node end; until then, they hold its locks
SEEN_S = 60.0  # in which a file that a node wrote is seen here, on a file system that caches folders
INHERITED = ("KERAS_BACKEND", "WANDB_MODE", VERBOSE)  # variables that nodes get from this process


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster.

    Args:
        root: Folder of the project.
        address: Address of the cluster, as `ray.init` takes it. Default: that of RAY_ADDRESS.
    """

    root: Path
    address: str | None = None

    def slots(self, piece: Piece) -> int:
        """Return how many pieces of this kind the cluster runs at once, as it is now."""
        with _connected(self.address) as ray:
            options, nodes = _options(ray, piece), _alive(ray)
        wanted = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0), **options.get("resources", {})}
        fitting = [min(int(node.get(name, 0) // need) for name, need in wanted.items() if need) for node in nodes]
        return max(1, sum(fitting))

    def run(
        self, pieces: Sequence[Piece], on_outcome: OnOutcome = ignore, may_begin: Callable[[], bool] = always
    ) -> dict[str, Outcome]:
        """Run pieces as `Place.run` says. All of them are handed to Ray at once.

        Raises:
            GatemaskError: A node does not see the project's folder, or has another version of gatemask.
        """
        outcomes: dict[str, Outcome] = {}
        with _connected(self.address) as ray, _probe(self.root) as (probe, token), _cancelled_at_end(ray) as waiting:
            task = ray.remote(max_retries=RETRIES)(run_on_node)
            for piece in pieces:
                if may_begin():
                    options = _options(ray, piece)
                    named = task.options(name=piece.name, **options)
                    arguments = (asdict(piece), str(probe), token, __version__, options["num_cpus"])
                    waiting[named.remote(*arguments)] = piece
            say(f"{len(waiting)} pieces of work on Ray: {_resources(ray)}")
            while waiting:
                done, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK_S)
                for reference in done:
                    piece = waiting.pop(reference)
                    outcomes[piece.name] = _outcome(ray, reference, piece)
                    on_outcome(piece, outcomes[piece.name])
        return {piece.name: outcomes[piece.name] for piece in pieces if piece.name in outcomes}


def run_on_node(fields: Mapping[str, Any], probe: str, token: str, version: str, cpus: int) -> dict[str, Any]:
    """Run a piece on this node, and return the fields of its outcome, or `setup`, an error that all pieces would meet.

    It runs in a process of its own, which ends with this one: Ray's worker stays small and holds no device's memory.

    Args:
        fields: Fields of the piece.
        probe: File that the submitting process has written to the project's folder.
        token: Its content.
        version: Version of gatemask there.
        cpus: Number of cores that Ray has reserved.
    """
    piece = Piece(**fields)
    try:
        _verify_node(piece, Path(probe), token, version)
    except GatemaskError as error:
        return {"setup": (error.what, error.details)}
    os.environ.update({CORES: str(cpus), LOCK_WAIT: str(BUSY_S)})
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it, and it changes the order of sums
    os.dup2(2, 1)  # Ray forwards what is printed here: stdout of the command belongs to --json
    outcome = Local([Device("cpu", socket.gethostname(), {})]).run([piece])[piece.name]
    return asdict(outcome)


def _verify_node(piece: Piece, probe: Path, token: str, version: str) -> None:
    """Raise unless this node sees the project's folder, and runs the same version of gatemask."""
    host = socket.gethostname()
    if version != __version__:
        raise GatemaskError(
            "A node of the cluster has another version of gatemask.",
            where=host,
            received=__version__,
            expected=version,
            do="Install the same version on all nodes.",
        )
    seen = probe.is_file() and probe.read_text(encoding="utf-8") == token and os.access(probe, os.W_OK)
    missing = [path for path in piece.reads if not Path(path).exists()]
    if not seen or missing:
        raise GatemaskError(
            "A node of the cluster does not see the project's folder as this machine does.",
            where=host,
            received=f"no {missing[0]}" if seen else f"no {probe.parent}, another one, or one that is read-only",
            expected="one folder that all nodes share under the same path",
            do="Put the project on a disk that all nodes mount under this path (NFS, Filestore, EFS, Lustre), or keep "
            "data and runs in an object store: see 'Beyond one machine' in the documentation.",
        )


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Yield the module ray while it is connected; a connection that this process had before stays.

    Ray prints what nodes say on stdout, from a thread, which belongs to `--json`: meanwhile stdout is stderr.
    """
    loaded = sys.modules.get("ray")
    before = loaded is not None and loaded.is_initialized()
    with redirect_stdout(sys.stderr):
        ray = _connect(address)
        try:
            yield ray
        finally:
            if not before:
                ray.shutdown()


def _connect(address: str | None) -> Any:
    """Return the module ray, connected to the cluster.

    Raises:
        GatemaskError: Ray is not installed, no address is known, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError:
        raise GatemaskError(
            "Ray is not installed.", where="--on ray", do='Run pip install "gatemask[ray]", here and on all nodes.'
        ) from None
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise GatemaskError(
            "The address of the Ray cluster is not known.",
            where="--address, or the variable RAY_ADDRESS",
            expected="auto on a node of the cluster, HOST:6379, or ray://HOST:10001",
        )
    variables = {name: os.environ[name] for name in INHERITED if name in os.environ}
    try:
        ray.init(address, logging_level=logging.ERROR, runtime_env={"env_vars": variables})
    except Exception as error:  # Ray raises almost anything
        raise GatemaskError(
            "The Ray cluster does not answer.",
            where=address,
            received=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            do="Start one with ray start --head, or correct --address.",
        ) from None
    return ray


def _alive(ray: Any) -> list[dict[str, float]]:
    """Return the resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _resources(ray: Any) -> str:
    total = ray.cluster_resources()
    parts = [f"{total[name]:g} {name}" for name in ("CPU", "GPU", "TPU") if total.get(name)]
    return f"{len(_alive(ray))} nodes with {', '.join(parts)}"


def _options(ray: Any, piece: Piece) -> dict[str, Any]:
    """Return what a piece needs, as Ray's options: the chips of a TPU host, a GPU and its share of cores, or cores.

    With `accelerator: auto` it gets the best accelerator that the cluster has now.
    """
    nodes = _alive(ray)
    # A piece that asks for more than any node has would wait for ever.
    cpus = max(1, min(piece.cores, max((int(node.get("CPU", 0)) for node in nodes), default=1)))
    if piece.accelerator in ("auto", "tpu"):
        chips = [node["TPU"] for node in nodes if node.get("TPU")]
        if chips or piece.accelerator == "tpu":
            return {"num_cpus": cpus, "resources": {"TPU": min(chips, default=4)}}
    if piece.accelerator in ("auto", "gpu"):
        shares = [int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU")]
        if shares or piece.accelerator == "gpu":
            return {"num_cpus": max(1, min(shares, default=1)), "num_gpus": 1}
    memory = min(piece.memory, max((int(node.get("memory", 0)) for node in nodes), default=piece.memory))
    return {"num_cpus": cpus, "memory": memory}


@contextmanager
def _probe(root: Path) -> Iterator[tuple[Path, str]]:
    """Write a file by which nodes recognize the project's folder, and yield its path and content."""
    token = uuid.uuid4().hex
    remove_strays(root / "runs")
    path = write_text(root / "runs" / f".tmp-{os.getpid()}-{MACHINE}-{token[:8]}.shared", token)
    try:
        yield path, token
    finally:
        with suppress(OSError):
            path.unlink()


@contextmanager
def _cancelled_at_end(ray: Any) -> Iterator[dict[Any, Piece]]:
    """Yield a dictionary of running tasks; those that are left at the end, after an error or Ctrl-C, are cancelled."""
    waiting: dict[Any, Piece] = {}
    try:
        yield waiting
    finally:
        for reference in waiting:
            with suppress(Exception):  # of a connection that is lost
                ray.cancel(reference, force=True)


def _outcome(ray: Any, reference: Any, piece: Piece) -> Outcome:
    """Return the outcome of a task that has ended.

    Raises:
        GatemaskError: The node is not set up for pieces of this project.
    """
    try:
        fields = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Outcome(error=f"Its task on Ray failed: {' '.join(str(error).split())[-300:]}")
    if "setup" in fields:
        what, details = fields["setup"]
        raise GatemaskError(what, **details)
    if fields["error"] is not None:
        return Outcome(**fields)
    deadline = time.monotonic() + SEEN_S
    while missing := [path for path in piece.writes if not Path(path).exists()]:
        if time.monotonic() > deadline:
            return Outcome(error=f"It ended, but {missing[0]} is not seen here.")
        time.sleep(1)
    return Outcome(**fields)
