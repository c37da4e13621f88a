"""Calibration: a pipeline's conditions for accepting an answer, set from labelled examples."""
