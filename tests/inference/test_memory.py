"""The memory of the kernel depends on the size of the largest image, not on tiles, members or images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import run_python

LIMIT_MB = 1500
SCRIPT = """
import json, resource, sys
from pathlib import Path
import cv2, numpy as np
from gatemask.inference import networks
from gatemask.inference.runner import predict_test_set
from tests.inference.fake_networks import FakeNetwork, member
from tests.inference.test_shapes import RULE, TILES, make

root, side, overlap = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
image = np.zeros((side, side, 3), np.uint8)
for at in range(0, side, 500):
    image[at : at + 250, at // 2 : at // 2 + 700] = 200
class Masks(FakeNetwork):
    def predict_on_batch(self, images):
        return super().predict_on_batch(images)[..., :1]
members = [member("m0", size=512, records=512), member("m1", size=512, records=512)]
tiles = {"size": 512, "overlap": overlap, "scale": 1.0}
picture = {"size": "mixed", "channels": 3}
folders = make(root, {"a": image, "b": image}, members, image=picture, tiles=tiles)
expected = int((image[:, :, 0] >= 128).sum())
del image
fakes = {name: Masks("mask", 1.0) for name in ("m0", "m1")}
for fake in fakes.values():
    fake.batch = 4
networks.load_members = lambda members, *_: {member.name: fakes[member.name] for member in members}
networks.accelerator = lambda: "cpu"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = folders.predict()
lengths = [sum(map(int, text.split()[1::2])) for text in folders.encoded.values()]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({
    "before": before / 1e3, "peak": peak / 1e3, "tiles": fakes["m0"].predicted, "lengths": lengths,
    "expected": expected, "degraded": report.degraded,
}))
"""


@pytest.mark.slow
@pytest.mark.integration
def test_memory_on_huge_images_does_not_depend_on_the_tiles(tmp_path: Path) -> None:
    results = []
    for overlap in (0, 160):
        done = run_python("-c", SCRIPT, tmp_path / str(overlap), 10_000, overlap, root=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(json.loads(done.stdout.splitlines()[-1]))
        assert results[-1]["degraded"] == []
        assert results[-1]["lengths"] == [results[-1]["expected"]] * 2
        assert results[-1]["peak"] < LIMIT_MB
    few, many = results
    assert many["tiles"] > 1.8 * few["tiles"]
    assert many["peak"] < 1.1 * few["peak"]
