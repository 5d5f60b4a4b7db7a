"""What is a good update from this data?  Pure numerics that know no ranks, files, processes or time."""
