"""The aggregator: adds encrypted updates. It has no key, sees no plaintext, and keeps nothing after the
round.
"""
