"""The reading room: cases, cells and human review behind one API, with a database that keeps what was decided."""
