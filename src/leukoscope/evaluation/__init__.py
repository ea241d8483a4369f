"""From predictions to numbers that can be believed: calibration, metrics, intervals, baselines, comparison."""
