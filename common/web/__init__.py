"""What answers HTTP: the application that the parts' routes are put into, who may come in, and the server round it."""
