"""The same training step in PyTorch, for the device benchmark.

As fast as PyTorch's own guides make it without changing the arithmetic: bfloat16 autocast, channels last, a fused Adam,
pinned memory with copies that do not block, cuDNN's search for the fastest convolution, and torch.compile over network
and loss. Batches are ready in memory; the device repeats the gray channel and normalizes, as in gatemask.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_child import steps_for
from device_torch_networks import build_network

FIRST, READY = 3, 8
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def prepare(job: Mapping[str, Any]) -> TorchStep:
    """Return the training step of a job, run for two steps."""
    return TorchStep(job)


class TrainedNetwork(torch.nn.Module):
    """Network with normalization and loss, from uint8 images (b, 1, h, w) and truth to a scalar.

    Args:
        network: Network from normalized images, (b, 3, h, w), to logits.
        is_gate: Whether the loss is cross-entropy alone; that of masks adds soft Dice.
    """

    def __init__(self, network: torch.nn.Module, is_gate: bool) -> None:
        super().__init__()
        self.network, self.is_gate = network, is_gate
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        x = (images.float().expand(-1, 3, -1, -1) - self.mean) / self.deviation
        logits = self.network(x.contiguous(memory_format=torch.channels_last)).float()
        truth = truth.float()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
        if self.is_gate:
            return entropy
        probability = torch.sigmoid(logits)
        both = (probability * truth).sum((1, 2, 3))
        total = probability.sum((1, 2, 3)) + truth.sum((1, 2, 3))
        return entropy + (1 - (2 * both + 1) / (total + 1)).mean()


class TorchStep:
    """A training step, run for two steps.

    Args:
        job: The fields of `Network` and the options of the command line.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        started = time.perf_counter()
        on_gpu = torch.cuda.is_available()
        self.job, self.device = job, torch.device("cuda" if on_gpu else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(0)
        network = build_network(job["name"], job["encoder"]).to(self.device, memory_format=torch.channels_last).train()
        self.parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        trained = TrainedNetwork(network, job["name"] == "gate").to(self.device)
        self.optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=on_gpu)
        self.step = torch.compile(trained) if job["framework"] == "torch-compile" else trained
        self.batches = self._ready_batches(on_gpu)
        self.build_s = time.perf_counter() - started
        compiling = time.perf_counter()
        self._train(2)
        self.compile_s = time.perf_counter() - compiling
        self._seconds_per_step = self._train(3) / 3

    def facts(self) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        versions = {"torch": torch.__version__}
        for package in ("timm", "segmentation_models_pytorch"):
            with contextlib.suppress(ImportError):
                versions[package] = __import__(package).__version__
        return {
            "framework": self.job["framework"],
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "platform": "gpu" if on_gpu else "cpu",
            "devices": 1,
            "precision": self.job["precision"],
            "versions": versions,
            "parameters": self.parameters,
            "build_s": round(self.build_s, 2),
            "compile_s": round(self.compile_s, 2),
        }

    def measure(self, way: str, seconds: float) -> dict[str, Any]:
        steps = steps_for(seconds, self._seconds_per_step)
        self._train(FIRST)
        return {
            "ms_per_step": self._train(steps) / steps * 1e3,
            "steps": steps,
            "wait_share": None,
            "memory_mb": self._memory_mb(),
        }

    def _train(self, steps: int) -> float:
        """Train for some steps, and return the seconds until the device has finished them."""
        lower = self.job["precision"] == "bfloat16"
        self._wait_for_device()
        started = time.perf_counter()
        total = torch.zeros((), device=self.device)
        for images, truth in itertools.islice(itertools.cycle(self.batches), steps):
            images = images.to(self.device, non_blocking=True)
            truth = truth.to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
                loss = self.step(images, truth)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
        finite = bool(torch.isfinite(total))  # waits for the device
        self._wait_for_device()
        if not finite:
            raise FloatingPointError("the loss became NaN or infinite")
        return time.perf_counter() - started

    def _ready_batches(self, pin: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rng, (batch, size) = np.random.default_rng(0), (self.job["batch"], self.job["size"])
        is_gate = self.job["name"] == "gate"
        batches = []
        for _ in range(READY):
            images = torch.from_numpy(rng.integers(0, 256, (batch, 1, size, size)).astype(np.uint8))
            shape, dtype = ((batch, 1), np.float32) if is_gate else ((batch, 1, size, size), np.uint8)
            truth = torch.from_numpy((rng.random(shape) < 0.1).astype(dtype))
            batches.append((images.pin_memory(), truth.pin_memory()) if pin else (images, truth))
        return batches

    def _wait_for_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _memory_mb(self) -> float:
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated() / 1e6, 1)
        return round(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
