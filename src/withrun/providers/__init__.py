"""Providers: configuration plus a backend."""
