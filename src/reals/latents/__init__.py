"""Stage 1: everything about latents before noise. Aligning, training, measuring, normalising and caching them."""
