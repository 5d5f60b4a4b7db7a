"""Contract tests for anyone who writes a learner, strategy, engine or communicator of their own."""
