"""Artifacts that other tools made of the same model: taken in with their tensors under the model's names."""
