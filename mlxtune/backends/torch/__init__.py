"""The PyTorch backend: transformers' modules behind our forward. Only this folder imports torch."""
