"""Where datatrove ranks run: on this machine, on a Ray cluster, or as a Slurm job array."""
