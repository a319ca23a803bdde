"""The data holder: decides which jobs may run, runs them beside the data, and keeps the ledger."""
