"""Sinks and sources: the ways that batches travel."""
