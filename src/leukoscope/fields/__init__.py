"""From a stained smear field or slide to single cells, cut out as the model knows them."""
