"""What is measured of a model while a stage trains it, besides bits per byte."""

from stemma.core.config import Config


class MonitorConfig(Config):
    """Measurements along the way. They never change what is trained."""
