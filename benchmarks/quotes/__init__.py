"""Quotes held against what runs then cost."""
