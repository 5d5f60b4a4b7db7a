"""What users meet: models with scikit-learn's grammar, each of which drives the whole of tutti.

scikit-learn is never imported from here unless the caller's own code has loaded it or asks for its tags.
"""
