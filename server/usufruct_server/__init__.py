"""The servers of Usufruct: the data holder's, the aggregator's, and a whole network on one machine for trying it out."""
