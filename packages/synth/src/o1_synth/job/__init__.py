"""A job: many requests, none lost.

The scheduler makes all requests, draw makes one; the journal keeps their outcomes, watch shows them.
"""
