"""Outcome by stage at diagnosis: a table of patients becomes curves, tests, a model that can be judged, and a page.

Knows nothing of cell images: no image carries an outcome. The path is cohort → curves, comparison → cox, aft,
fine_gray → judgement → study; `model` predicts from plain JSON with numpy alone.
"""
