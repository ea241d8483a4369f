"""What other programs read and write: QuPath, DICOM, tables."""
