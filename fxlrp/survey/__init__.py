"""Which models fxlrp explains: ``python -m fxlrp.survey``."""
