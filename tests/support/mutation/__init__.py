"""Mutation testing: whether the tests notice small changes of the passes and of the relevance functions."""
