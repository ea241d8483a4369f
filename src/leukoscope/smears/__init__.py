"""From a smear field or slide to opinions: its cells are found, brought to the model's scale and stain, and judged."""
