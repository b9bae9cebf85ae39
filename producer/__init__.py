"""This node's changes, out: sealing, the relay, files."""
