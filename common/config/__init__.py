"""The configuration: one frozen tree, loaded once, unknown keys refused."""
