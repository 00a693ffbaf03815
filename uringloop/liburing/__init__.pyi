from typing import Any

__all__ = ["ffi", "lib"]

ffi: Any  # the FFI object of a compiled cffi module
lib: Any  # its functions and constants
