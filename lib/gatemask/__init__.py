"""Segmentation competitions, from raw files to a scored Kaggle submission."""

import os

# OpenCV reads this when it is imported. Its default, 2 ** 30, is less than slides and maps have; damaged headers are
# recognized by `require_plausible` of data/pictures.py.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 40))

# Looking for plugins of pydantic, which nothing here uses, reads the metadata of every installed package.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

__version__ = "0.1.0"
