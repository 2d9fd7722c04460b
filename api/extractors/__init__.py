"""Reads text out of files. Runs as a process of its own (`python -m api.extractors`), which api.extraction starts.

A format's library is imported only for a file of that format: most files are plain text, and there are thousands.
"""
