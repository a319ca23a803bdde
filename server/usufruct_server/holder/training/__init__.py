"""The trainer at the holder: data by card, DP-SGD, and the warm child process that runs them. See README.md.

Imports nothing by itself: the server's process needs :mod:`.trainer` only, which needs no torch.
"""
