"""`gatemask new`: inspect a folder of files and write the YAMLs of a competition."""
