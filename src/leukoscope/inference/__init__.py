"""One portable model that predicts without PyTorch: the bundle, the predictor, the summary per subject."""
