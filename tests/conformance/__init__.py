"""Other people's test suites, run against uringloop's event loop: `python -m tests.conformance SUITE`."""
