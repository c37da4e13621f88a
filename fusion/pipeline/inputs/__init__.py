"""Inputs of a pipeline: the values that a user gives, files among them, and their form as arguments of a tool."""
