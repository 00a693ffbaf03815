"""Benchmarks of uringloop and other event loops: ``python -m benchmarks``; see README.md."""
