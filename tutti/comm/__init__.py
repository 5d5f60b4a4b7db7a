"""How arrays travel: threads, shared memory, and the canonical reduction that both use."""
