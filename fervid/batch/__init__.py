"""Many clips: runs, resuming and output formats."""
