"""Records, errors, text, files, processes and progress, used by all other subpackages."""
