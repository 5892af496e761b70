"""How the shipped models are made; needs the extra `training`, and nothing outside imports it."""
