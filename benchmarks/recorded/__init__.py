"""Recorded answers of real models: what a policy that is chosen out of fold saves and loses."""
