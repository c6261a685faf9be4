"""Images as data: read, prepared as the folder says, and labelled. `ImageShape` is what plug-ins need of it."""

from ladle_engine.tasks.images.shape import ImageShape

__all__ = ["ImageShape"]
