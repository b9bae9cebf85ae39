"""Checks over a file before its first row is written: one check a module, pure but for reading the file."""
