"""The training loop of both stages: it knows no autoencoder and no transformer, only an objective."""
