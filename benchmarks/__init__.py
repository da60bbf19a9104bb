"""What an explanation costs, in multiples of one gradient: ``python -m benchmarks --help``.

``plan`` lists the cases, ``worker`` measures those of one model in a process of its own, and ``report`` makes
``docs/benchmarks.md`` and its picture of the results.
"""
