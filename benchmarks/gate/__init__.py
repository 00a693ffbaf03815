"""The gate: counts the instructions of a dozen paths and compares them with a reference; see README.md, beside it."""
