"""`doctor`: everything that a node stands on, looked at in order, with what to do about each fault."""
