"""Redrive and discard failures of the inbox: one, or many at a limited rate."""
