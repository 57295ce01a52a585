"""Write kernel-metadata.json with every key set, since the defaults of Kaggle and of its command differ and change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask.files import write_json

METADATA = "kernel-metadata.json"


@dataclass(frozen=True)
class KernelMetadata:
    """Settings of a private Python script on Kaggle.

    Args:
        ref: Kernel, as owner/slug. The title is made from the slug, because Kaggle makes the slug from the title.
        code_file: Name of the script next to the metadata.
        machine_shape: Accelerator, such as "NvidiaTeslaT4". Default: None, the machine without one.
        gpu: Whether the accelerator is a GPU.
        tpu: Whether the accelerator is a TPU.
        internet: Whether the kernel has network access.
        datasets: Attached datasets, each as owner/slug.
        kernels: Kernels whose output is attached, each as owner/slug.
        competitions: Names of attached competitions.
    """

    ref: str
    code_file: str
    machine_shape: str | None = None
    gpu: bool = False
    tpu: bool = False
    internet: bool = False
    datasets: Sequence[str] = ()
    kernels: Sequence[str] = ()
    competitions: Sequence[str] = ()

    def write(self, folder: Path) -> Path:
        """Write kernel-metadata.json into `folder`."""
        shape = {} if self.machine_shape is None else {"machine_shape": self.machine_shape}
        return write_json(
            folder / METADATA,
            {
                "id": self.ref,
                "title": self.ref.split("/")[1].replace("-", " "),
                "code_file": self.code_file,
                "language": "python",
                "kernel_type": "script",
                "is_private": True,
                "enable_gpu": self.gpu,
                "enable_tpu": self.tpu,
                "enable_internet": self.internet,
                **shape,
                "dataset_sources": list(self.datasets),
                "kernel_sources": list(self.kernels),
                "competition_sources": list(self.competitions),
                "model_sources": [],
                "keywords": [],
            },
        )
