"""A survey of the models that fxlrp can explain: ``python -m fxlrp.survey``."""
