"""The consumer's pages: dead letters, conflicts, audit. They call the operations that the commands call."""
