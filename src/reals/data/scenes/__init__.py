"""Small three-dimensional scenes, rendered on the fly: images with exact labels, masks and depth, and no download."""

from reals.data.scenes.renderer import SCENE_CLASSES, Scenes, render
from reals.data.scenes.source import SceneSource

__all__ = ["SCENE_CLASSES", "SceneSource", "Scenes", "render"]
