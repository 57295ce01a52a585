"""Code for processes that may not import TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path

# First line of such a process: each import of TensorFlow fails, and is noted with the code that asked for it.
REFUSE = """
import sys, traceback
class NoTensorFlow:
    asked = []
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tf_keras"):
            self.asked.append("".join(traceback.format_stack()[:-1]))
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, NoTensorFlow())
"""
# Last line: no code asked for it, not even where a failure is ignored, and no stand-in is left.
REQUIRE_UNUSED = """
if NoTensorFlow.asked:
    sys.exit(NoTensorFlow.asked[0])
if left := {"tensorflow", "tf_keras"} & {name.split(".")[0] for name in sys.modules}:
    sys.exit(f"left among the modules: {left}")
"""


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with the packages of this one, but no TensorFlow, and return its Python.

    Args:
        folder: Folder of the environment, which does not exist yet.
    """
    import venv

    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for entry in next(Path(sys.prefix).glob("lib/python*/site-packages")).iterdir():
        if not entry.name.startswith(("tensorflow", "tf_keras")) and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    if (wheels := Path(sys.prefix) / "wheels").exists():  # downloaded only once
        (folder / "wheels").symlink_to(wheels)
    return folder / "bin" / "python"
