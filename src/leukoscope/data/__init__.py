"""From folders of images to a table of cells, an audit, a split and packed crops."""
