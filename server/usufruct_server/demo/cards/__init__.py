"""Dataset cards of the demo's hospitals: declared constants, written from the documentation of the two data sets."""
