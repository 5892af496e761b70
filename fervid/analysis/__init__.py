"""Frames -> faces, tracks, features and predictions."""
