"""One run: its phases in order, its progress, what it says of itself."""
