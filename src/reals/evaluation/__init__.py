"""What samples, reconstructions and features are worth, each number with its bootstrap replicates."""
