"""From the words of a command to checked configs and the cells of a sweep. Nothing here imports torch."""
