"""tornado's tests expect the logging that its own runner sets up."""

import logging


def adapt(module):
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    return lambda test: True
