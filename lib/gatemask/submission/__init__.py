"""The submission file: its format and its checks."""
