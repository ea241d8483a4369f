"""leukoscope tells leukemia blasts from normal blood-cell precursors in microscope images. Research use only."""
