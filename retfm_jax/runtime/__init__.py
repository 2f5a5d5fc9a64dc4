"""The machine: meshes, processes, checkpoints, compiled programs, signals."""
