"""Relevance in the backward pass of a model: ``fxlrp.autograd`` and the backend of ``torch.compile``."""
