"""Features of labelled clips, and classifiers that are fitted and evaluated on them."""
