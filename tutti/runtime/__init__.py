"""The only place where learner, strategy, engine, communicator and data meet."""
