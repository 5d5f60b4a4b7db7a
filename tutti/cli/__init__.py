"""The command line: job files in, models, predictions and reports out."""
