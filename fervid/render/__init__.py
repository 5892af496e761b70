"""Output for people: tables, plots, HTML reports and annotated videos."""
