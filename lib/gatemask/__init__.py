"""Segmentation competitions, from raw files to a scored Kaggle submission."""

__version__ = "0.1.0"
