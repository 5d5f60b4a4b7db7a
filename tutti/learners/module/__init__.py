"""Nets: any torch module as a learner.  Only the private modules here import torch, and only once a net is built."""
