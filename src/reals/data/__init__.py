"""Photos from folders, zips and Hugging Face datasets to training batches; images of scenes with known truth."""
