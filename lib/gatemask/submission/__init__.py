"""Checks of the submission file."""
