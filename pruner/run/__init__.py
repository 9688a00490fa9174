"""One run: its phases in order, its progress, what it reports."""
