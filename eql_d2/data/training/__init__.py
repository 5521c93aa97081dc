"""What a training step sees: sampling, loading, augmentation and targets."""
