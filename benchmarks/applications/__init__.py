"""Whole applications on one loop after the other: unmodified frameworks, load by programs in C."""
