"""Which rules find what decides: generated problems with known answers, ``python -m benchmarks.evidence --help``.

``problems`` lists the problems, ``networks`` what is trained on them, ``methods`` what explains the networks,
``metrics`` how an explanation is compared with the answer. ``plan`` lists the cells of a run, ``measure`` computes one,
and ``report`` makes ``docs/evidence.md`` and its picture of the results.
"""
