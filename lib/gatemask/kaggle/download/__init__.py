"""Competition files: downloaded, verified and unpacked."""
