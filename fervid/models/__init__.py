"""Model files: the registry, their checks, and downloads."""
