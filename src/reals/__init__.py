"""Representation-aligned latent spaces for diffusion models (ReaLS, arXiv 2502.00359)."""

__version__ = "0.1.0"
