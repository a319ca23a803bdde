"""The aggregator: adds encrypted updates; has no key."""
