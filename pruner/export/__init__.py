"""What ships of a run: its network without dead channels and heads, in files that were read back and checked."""
