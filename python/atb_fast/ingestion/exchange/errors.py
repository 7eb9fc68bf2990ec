"""Why a download failed. Importing this module does not import requests."""

from atb_fast.errors import FetchError


class UnreachableError(FetchError):
    """A server cannot be reached, or does not serve this machine, so other data may help."""
