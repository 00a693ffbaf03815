"""Benchmarks of uringloop beside other event loops: ``python -m benchmarks``; see README.md."""
