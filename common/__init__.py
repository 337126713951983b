"""What the nine papers share, and nothing that knows any of them.

Models, counts, records, reports, benchmarks, data.
"""
