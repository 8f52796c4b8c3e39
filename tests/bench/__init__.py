"""Benchmarks: speed and memory on real engines, against the tools that people know. Never part of the tests."""
