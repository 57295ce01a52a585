"""The commands: each parses its arguments, calls one function of the package, and prints.

Heavy imports are made inside the functions, so that `--help` and configuration errors are fast.
"""
