"""Conformance suites for drivers, ours and third parties'."""
