"""The model bundle: a folder that holds everything a model needs to answer."""
