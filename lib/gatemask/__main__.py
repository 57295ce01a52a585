"""`python -m gatemask`."""

from gatemask.cli import main

main()
