"""Why a model says what it says: heat maps, and checks of whether they are to be believed.

Everything works on a callable that gives probabilities for crops, so that it explains what is served.
"""
