"""Measurements against peers and budgets; none is a test that can fail on a slow day."""
