"""Labelled clips -> features, fitted classifiers and their evaluation."""
