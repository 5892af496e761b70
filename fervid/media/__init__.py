"""Files, streams and cameras -> frames."""
