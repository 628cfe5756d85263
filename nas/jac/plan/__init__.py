"""The derivative of each operation of a network, and the order in which they are multiplied."""
