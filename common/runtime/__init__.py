"""What runs a node: the opened node, the supervisor, signals, transports built from the configuration."""
