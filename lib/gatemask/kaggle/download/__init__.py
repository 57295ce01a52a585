"""Download of competition files: fetched, verified and unpacked."""
