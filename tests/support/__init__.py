"""What the tests stand on: slow, obvious references, small runs, processes, damage."""
