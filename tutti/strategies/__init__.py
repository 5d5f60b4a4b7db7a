"""Who waits for whom, how do updates merge, who owns the model?"""
