"""What every process has: its peers, signals, streams, device and seeds."""
