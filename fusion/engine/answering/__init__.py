"""Answering: options of the stage that writes the answer, and the runs that continue one by results of its tools."""
