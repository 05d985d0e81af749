"""What a latent space is worth before any generator is trained on it.

Probes, semantic consistency, templates, spectra, rank, equivariance, likeness to a semantic encoder, and one score of
all that.
Functions of several items return one value per item, so that a bootstrap over items can follow.
"""
