"""The version of the wire package, the application and the image: one number for all three."""

__version__ = "0.1.0"
