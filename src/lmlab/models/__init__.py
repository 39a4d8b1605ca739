"""Text models of the registry: counted, trained, mixed, and the fakes to test with."""
