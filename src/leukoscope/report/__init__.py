"""From metrics.json to a page that a physician can read: one file, offline, on paper or on a phone."""
