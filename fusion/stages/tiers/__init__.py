"""Tiers: answers of cheap models, accepted or escalated to stronger ones."""
