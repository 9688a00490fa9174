"""The commands and their help."""
