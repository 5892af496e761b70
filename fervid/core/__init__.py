"""Records, errors, and files, processes and progress: what every other part uses."""
