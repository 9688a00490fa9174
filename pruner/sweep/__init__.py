"""Many runs side by side: cells on cores, GPUs and clusters, and the plan of what is missing."""
