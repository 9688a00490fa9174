"""Scores onto a budget, softly and hard."""
