"""Estimate what a network costs on a machine: memory, seconds and hours."""
