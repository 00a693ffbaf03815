"""Log errors of callbacks when there is no loop to report them to."""

import logging
from typing import Any


class LogReporter:
    """The methods and attributes of a loop that a Handle needs."""

    __slots__ = ()

    _n_nested = 1  # callbacks may run turns: Handle leaves and enters contexts for them

    def call_exception_handler(self, details: dict[str, Any]) -> None:
        """As asyncio's default one."""
        logging.getLogger("uringloop").error(details["message"], exc_info=details.get("exception"))

    def get_debug(self) -> bool:
        return False


LOG_REPORTER = LogReporter()
