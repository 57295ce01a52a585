"""The file that is submitted: its format and its checks."""
