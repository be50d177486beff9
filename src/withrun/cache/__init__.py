"""Cached metadata and artifacts: never half-written, shared by threads and processes; exports too."""
