"""Experiments at a glance: what was trained, how well it scores, what it cost."""
