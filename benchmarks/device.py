"""Benchmark of training on the devices of this machine (`make bench-device`), next to the same networks in PyTorch.

    python benchmarks/device.py --seconds 400
    python benchmarks/device.py --networks unet --batch 8          a smaller card
    python benchmarks/device.py --networks gate --size 64 --batch 2 --seconds 120     a trial on a CPU

Rows are printed and written to runs/bench-device.jsonl as soon as they are known. Each network is prepared by three
processes side by side: gatemask on JAX, PyTorch, and PyTorch with torch.compile. Then they are measured in turns, one
at a time. A process that takes more than its share of the time is killed, so slow autotuning costs its own rows only.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import queue
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from device_plan import FRAMEWORKS, NETWORKS, ROUND_S, ROUNDS, Budget, Framework, Network, chosen_networks, round_s
from device_process import CHILD, Measurement, Message
from device_rows import HEADER, Row, RowFile, add_ratios, line, measured_row, unmeasured_row

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Benchmark:
    """A run of the benchmark.

    Args:
        options: Fields of a job that all processes share.
        budget: Its time.
        rows: File for the rows.
        logs: Folder for the logs of the processes.
        missing: Why a framework cannot be measured, by its name.
        command: Command of a process. Default: device_child.py.
        show: Prints a line. Default: to stdout, at once.
    """

    options: dict[str, Any]
    budget: Budget
    rows: RowFile
    logs: Path
    missing: dict[str, str]
    command: Sequence[str] = tuple(CHILD)
    show: Callable[[str], None] = lambda text: print(text, flush=True)

    def run(self, networks: Sequence[Network]) -> list[Row]:
        """Measure the networks in this order, and return all rows."""
        self.show(HEADER)
        found: list[Row] = []
        for position, network in enumerate(networks):
            if reason := self.budget.why_skip(network, is_first=position == 0):
                rows = [unmeasured_row(network, way, "skipped", reason) for f in FRAMEWORKS for way in f.ways]
            else:
                rows = self._measure(network, self.budget.limit(network, networks[position + 1 :]))
            add_ratios(rows)
            for row in rows:
                self.rows.write(row)
                self.show(line(row))
            found += rows
        return found

    def _measure(self, network: Network, limit: float) -> list[Row]:
        """Return the rows of a network, measured within `limit` seconds."""
        started = self.budget.clock()
        frameworks = [framework for framework in FRAMEWORKS if framework.name not in self.missing]
        done = self._measure_together(network, frameworks, limit)
        # Several share the device's memory. What did not fit next to others is tried alone.
        full = [process for process in done if process.out_of_memory] if len(done) > 1 else []
        for process in full:
            left = min(self.budget.left(), limit - (self.budget.clock() - started))
            if left < self.budget.needed(network):
                continue
            framework = next(framework for framework in frameworks if framework.name == process.name)
            self.show(f"  {network.title}: {process.name} again, alone: the device's memory was full")
            done[done.index(process)] = self._measure_together(network, [framework], left)[0]
        return list(self._rows(network, {process.name: process for process in done}))

    def _measure_together(self, network: Network, frameworks: Sequence[Framework], limit: float) -> list[Measurement]:
        """Prepare and measure frameworks side by side; return their processes, which have ended."""
        started, messages = self.budget.clock(), queue.Queue[Message]()
        processes: list[Measurement] = []
        try:
            for framework in frameworks:
                log = self.logs / f"{network.name}-{framework.name}.log"
                job = {**asdict(network), **self.options, "framework": framework.name}
                processes.append(Measurement(job, messages, log, self.command))
            until = started + self.budget.prepare_limit(limit)
            self._receive(network, messages, until, lambda: all(p.ready or p.fault for p in processes), announce=True)
            for process in processes:
                if not process.ready and not process.fault:
                    seconds = self.budget.clock() - started
                    process.kill(f"killed: not prepared after {seconds:.0f} s; see {process.log.name}")
            if times := [process.ready["prepared_s"] for process in processes if process.ready]:
                self.budget.prepared(network, max(times))
            self._rounds(network, frameworks, processes, messages, started + limit)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.end()
        return processes

    def _rounds(
        self,
        network: Network,
        frameworks: Sequence[Framework],
        processes: Sequence[Measurement],
        messages: queue.Queue[Message],
        until: float,
    ) -> None:
        """Measure rounds in turns, each process alone, until all are done or the time is over."""
        ways = [(process, way) for f, process in zip(frameworks, processes, strict=True) for way in f.ways]
        # The most valuable rows first: the step itself on both sides, then the input.
        ways.sort(key=lambda pair: ("ready", "eager", "compiled", "first", "later").index(pair[1]))
        for number in range(ROUNDS):
            for process, way in ways:
                if process.fault or (way == "first" and number > 0):  # its images are decoded only once
                    continue
                if number > 0 and self.budget.clock() + ROUND_S > until:
                    return
                process.ask(way)
                count = len(process.rounds.get(way, ()))
                end = max(until, self.budget.clock() + round_s())
                end = min(end, self.budget.clock() + self.budget.left())
                self._receive(network, messages, end, lambda p=process, w=way, c=count: _answered(p, w, c))
                if not _answered(process, way, count):
                    process.kill(f"killed: no measurement in its time; see {process.log.name}")

    def _receive(
        self,
        network: Network,
        messages: queue.Queue[Message],
        until: float,
        done: Callable[[], bool],
        announce: bool = False,
    ) -> None:
        """Take messages until `done`, or until the time `until`; announce each process that is prepared."""
        while not done() and (left := until - self.budget.clock()) > 0:
            try:
                process, content = messages.get(timeout=min(left, 1.0))
            except queue.Empty:
                continue
            settled = process.ready or process.fault
            process.take(content)
            if announce and not settled:
                state = f"prepared in {process.ready['prepared_s']:.0f} s" if process.ready else process.fault
                self.show(f"  {network.title}: {process.name} {state}")

    def _rows(self, network: Network, processes: dict[str, Measurement]) -> Iterator[Row]:
        for framework in FRAMEWORKS:
            process = processes.get(framework.name)
            for way in framework.ways:
                if process is None:
                    yield unmeasured_row(network, way, "skipped", self.missing[framework.name])
                elif process.ready and process.rounds.get(way):
                    yield measured_row(network, way, process.ready, process.rounds[way])
                else:
                    fault = process.fault or "the time was over"
                    status = "killed" if fault.startswith("killed") else "failed"
                    yield unmeasured_row(network, way, status, fault.removeprefix("killed: "))


def _answered(process: Measurement, way: str, count: int) -> bool:
    return process.fault is not None or len(process.rounds.get(way, ())) > count


def missing_frameworks(accelerator: str) -> dict[str, str]:
    """Return why frameworks cannot be measured here, by name.

    Args:
        accelerator: "tpu", "gpu" or "cpu".
    """
    missing = {}
    for framework in FRAMEWORKS:
        absent = [package for package in framework.packages if importlib.util.find_spec(package) is None]
        if absent:
            missing[framework.name] = f"not installed: {', '.join(absent)}"
        elif accelerator == "tpu" and framework.name != "jax":
            missing[framework.name] = "PyTorch has no TPU here"
    return missing


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the benchmark as Ctrl-C does, so that its processes end with it."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line; wrong ones end the process with a message."""
    names = [network.name for network in NETWORKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seconds", type=float, default=400, help="time limit, in seconds; default: 400")
    add("--since", type=float, help="time from which the limit counts, in seconds since 1970; default: now")
    add("--networks", default=",".join(names), help="names, separated by commas; default: %(default)s")
    add("--size", type=int, help="side of the images, in pixels; default: that of each network")
    add("--batch", type=int, help="images per step and device; default: that of each network")
    add("--images", type=int, default=2048, help="images in the records; default: 2048")
    add("--devices", type=int, default=1, help="devices for JAX; PyTorch uses one; default: 1")
    add("--precision", choices=["bfloat16", "float32"], default="bfloat16", help="default: bfloat16")
    add("--out", type=Path, default=ROOT / "runs" / "bench-device.jsonl", help="default: runs/bench-device.jsonl")
    options = parser.parse_args(arguments)
    if unknown := set(options.networks.split(",")) - set(names):
        parser.error(f"--networks: unknown {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    if options.size is not None and (options.size < 32 or options.size % 32):
        parser.error(f"--size: must be a multiple of 32, not {options.size}")
    for name in ("seconds", "batch", "images", "devices"):
        if (value := getattr(options, name)) is not None and value <= 0:
            parser.error(f"--{name}: must be positive, not {value}")
    largest = max(network.batch for network in NETWORKS) if options.batch is None else options.batch
    if options.images < 2 * largest * options.devices:
        parser.error(f"--images: must fill two batches, {2 * largest * options.devices} images, not {options.images}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; return 1 if it measured nothing."""
    options = parse(arguments)
    budget = Budget(options.seconds - (0 if options.since is None else max(0.0, time.time() - options.since)))
    from gatemask.training.runtime import detect_accelerator

    networks = chosen_networks(options.networks.split(","), options.size, options.batch)
    started = time.strftime("%Y-%m-%dT%H:%M:%S")
    logs = options.out.parent / ".logs" / options.out.stem
    logs.mkdir(parents=True, exist_ok=True)
    accelerator = detect_accelerator()
    print(f"{accelerator}, {os.cpu_count()} cores, {options.precision}, {options.seconds:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="gatemask-device-") as records, _terminated_as_interrupted():
        job = {
            "records": records,
            "images": options.images,
            "devices": options.devices,
            "precision": options.precision,
            "round_s": ROUND_S,
        }
        run = {"run": started, "cores": os.cpu_count()}
        benchmark = Benchmark(job, budget, RowFile(options.out, run), logs, missing_frameworks(accelerator))
        try:
            rows = benchmark.run(networks)
        except KeyboardInterrupt:
            print("interrupted; the rows above are kept", file=sys.stderr)
            return 130
    measured = [row for row in rows if row["status"] == "measured"]
    for device in sorted({f"{row['device']}: {_versions(row)}" for row in measured}):
        print(device)
    print(f"{len(measured)} of {len(rows)} rows measured, {options.out}, logs in {logs}")
    return 0 if measured else 1


def _versions(row: Row) -> str:
    return ", ".join(f"{name} {version}" for name, version in row["versions"].items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
