"""What can be pruned, what it costs, and how masks meet a budget. Nothing here knows a method."""
