"""Tests of the journal: on real files, real servers, and really killed processes."""
