"""The bounded pool keeps order, takes items as needed, and raises errors in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gatemask.parallel import cores, ordered_map, peak_memory


def test_results_keep_the_order_of_the_items() -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(ordered_map(pool, lambda n: n * n, range(50), ahead=3)) == [n * n for n in range(50)]


def test_items_are_taken_only_as_far_ahead_as_allowed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, lambda n: n, items(), ahead=5)
        assert next(results) == 0
        assert len(taken) == 6
        results.close()


def test_an_error_is_raised_when_its_item_is_due() -> None:
    def halve(number: int) -> float:
        return 1 / (number - 3)

    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, halve, range(10), ahead=4)
        assert len([next(results) for _ in range(3)]) == 3
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_there_is_at_least_one_core() -> None:
    assert cores() >= 1


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count the parent")
def test_peak_memory_is_that_of_the_process_alone() -> None:
    large = b"1" * 400_000_000
    code = "from gatemask.parallel import peak_memory; print(peak_memory())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert peak_memory() > len(large)
    assert 5_000_000 < int(output) < 200_000_000
