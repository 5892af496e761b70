"""What was found, drawn for people: tables and pictures."""
