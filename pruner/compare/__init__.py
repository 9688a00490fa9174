"""Rows of many runs as tables, pictures and a page. Nothing here imports torch."""
