"""Secrets of this machine: which values they have, and whether one of them is about to leave it."""
