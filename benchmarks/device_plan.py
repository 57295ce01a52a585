"""What the device benchmark measures, and how it divides its time between the networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

ROUNDS, ROUND_S = 3, 2.0
SLACK = 1.6  # time a network may take, relative to its fair share
CHANCE = 0.7  # share of the expected time with which a network is still tried: unused time is lost
RESERVE_S = 4.0  # for ending the processes and printing


@dataclass(frozen=True)
class Network:
    """A network to train.

    Args:
        name: Its name in a YAML, and on the command line.
        encoder: Name of the encoder in a YAML.
        size: Side of the images, in pixels.
        batch: Images per step and device.
        prepare_s: Time from the start of the slowest process to its second step, in seconds, as expected on an H200.
    """

    name: str
    encoder: str
    size: int
    batch: int
    prepare_s: float

    @property
    def title(self) -> str:
        return f"{self.name} {self.encoder.replace('efficientnet', '')} {self.size} px"

    @property
    def cost_s(self) -> float:
        """Expected time to prepare and measure it, in seconds."""
        return self.prepare_s + ROUNDS * round_s()


# The most valuable first: later ones are skipped when the time is short.
NETWORKS = [
    Network("gate", "efficientnetb1", 512, 64, 75.0),
    Network("unet", "efficientnetb3", 480, 32, 110.0),
    Network("unetpp", "efficientnetb1", 512, 32, 110.0),
]


@dataclass(frozen=True)
class Framework:
    """A process that trains the networks.

    Args:
        name: Its name in the rows.
        ways: What it measures, in this order.
        packages: Packages that it imports.
    """

    name: str
    ways: tuple[str, ...]
    packages: tuple[str, ...]


# "first": epoch in which each image is decoded. "later": epochs that read the cache of decoded images.
FRAMEWORKS = [
    Framework("jax", ("ready", "first", "later"), ("jax", "keras")),
    Framework("torch", ("eager",), ("torch", "timm", "segmentation_models_pytorch")),
    Framework("torch-compile", ("compiled",), ("torch", "timm", "segmentation_models_pytorch")),
]
TITLES = {
    "ready": "JAX, ready batches",
    "first": "JAX, records, first epoch",
    "later": "JAX, records, later epochs",
    "eager": "PyTorch, eager",
    "compiled": "PyTorch, torch.compile",
}


def round_s() -> float:
    """Return the expected time of one round over all ways, in seconds."""
    return sum(len(framework.ways) for framework in FRAMEWORKS) * (ROUND_S + 0.5)


def chosen_networks(names: Sequence[str], size: int | None, batch: int | None) -> list[Network]:
    """Return the networks of these names, in the order of their value, with the size and batch of the command line."""
    changes = {key: value for key, value in (("size", size), ("batch", batch)) if value is not None}
    return [replace(network, **changes) for network in NETWORKS if network.name in names]


@dataclass
class Budget:
    """The time of the benchmark.

    Args:
        seconds: Time from now to the end of the benchmark.
        clock: Returns the time in seconds.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    scale: float = 1.0  # measured by expected time to prepare a network
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def left(self) -> float:
        """Return the seconds that remain for measurements."""
        return self._started + self.seconds - RESERVE_S - self.clock()

    def needed(self, network: Network) -> float:
        """Return the time that a network is expected to take at least, in seconds: its preparation and one round."""
        return network.prepare_s * self.scale + round_s()

    def why_skip(self, network: Network, is_first: bool) -> str | None:
        """Return why a network is skipped, or None. The first is always tried: its time is not known."""
        left, needed = self.left(), self.needed(network)
        if left >= CHANCE * needed or (is_first and left > 0):
            return None
        return f"{max(left, 0):.0f} s left, about {needed:.0f} s needed"

    def limit(self, network: Network, after: Sequence[Network]) -> float:
        """Return how long a network may take, in seconds, so that the networks after it get time too."""
        total = network.cost_s + sum(other.cost_s for other in after)
        return min(self.left(), self.left() * network.cost_s / total * SLACK)

    def prepare_limit(self, limit: float) -> float:
        """Return how long its preparation may take, in seconds: a round must fit after it."""
        return max(limit - round_s(), limit / 2)

    def prepared(self, network: Network, seconds: float) -> None:
        """Note how long the slowest process took to prepare a network; estimates of the networks after it follow."""
        self.scale = seconds / network.prepare_s
