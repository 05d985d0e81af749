"""DiT's Gaussian diffusion: a chain of discrete noisings, trained and sampled as the originals do."""
