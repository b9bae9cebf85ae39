"""What operators do with a node, as functions that the command line and the web call alike."""
