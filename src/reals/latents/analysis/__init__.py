"""What a latent space knows before any generator is trained on it: probes, semantic consistency, position templates.

Functions return one value per item, so that a bootstrap over items can follow.
"""
