"""Frozen encoders whose features the latents learn to predict: DINOv2 (the paper's) and one that works offline."""

from reals.models.semantic.base import Features, SemanticEncoder
from reals.models.semantic.dinov2 import DinoV2
from reals.models.semantic.efficientnet import EfficientNetLite0

__all__ = ["DinoV2", "EfficientNetLite0", "Features", "SemanticEncoder"]
