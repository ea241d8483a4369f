"""Images of cells and fields: read in one way, and cut to what a network sees."""
