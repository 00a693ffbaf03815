"""tornado's tests expect the logging configuration of its own runner."""

import logging


def adapt(module):
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    return lambda test: True
