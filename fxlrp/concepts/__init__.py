"""Concepts: what the channels inside a model respond to, by the samples of a dataset (Achtibat et al., 2023)."""

from fxlrp.concepts.best import Top
from fxlrp.concepts.channels import channel_relevance
from fxlrp.concepts.class_sums import Statistics
from fxlrp.concepts.references import References

__all__ = ["References", "Statistics", "Top", "channel_relevance"]
