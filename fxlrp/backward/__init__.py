"""Relevance in a model's backward: ``fxlrp.autograd`` and the backend of ``torch.compile``."""
