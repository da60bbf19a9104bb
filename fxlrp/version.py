"""The version of this package: builds and the documentation read it here."""

__version__ = "0.2.0"
