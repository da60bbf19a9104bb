"""Certificates that an explanation is exact: coefficients times inputs and the constants rebuild the output."""
