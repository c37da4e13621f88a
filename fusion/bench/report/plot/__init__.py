"""Plots of a report: cost against accuracy, with labels at the points."""
