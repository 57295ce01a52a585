"""Pieces of work, and the places that run them: processes of this machine, or the nodes of a Ray cluster."""
