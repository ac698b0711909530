"""What several tests need: runs built by hand, sources of requests, sequences without an engine."""
