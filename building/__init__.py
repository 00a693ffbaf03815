"""What setup.py uses to build the package; nothing here is imported at run time, and no wheel has it."""
