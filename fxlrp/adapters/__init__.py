"""Explanations in the form that other libraries take: import the module of the library.

:mod:`fxlrp.adapters.captum` needs captum, :mod:`fxlrp.adapters.quantus` needs NumPy.
"""
