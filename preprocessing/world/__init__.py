"""The miniature world: a complete small universe of people in scenes, drawn by code (`World`)."""

from preprocessing.world.world import RenderedScene, World, contact_sheet

__all__ = ["RenderedScene", "World", "contact_sheet"]
