"""Models of our own, for the demo and the tests: made by code, from seeds, and never stored."""
