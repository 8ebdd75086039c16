"""The expert behind an OpenAI-compatible server.

A request goes through expert (attempts), throttle (its turn) and http (one post); wire reads the answer.
"""
