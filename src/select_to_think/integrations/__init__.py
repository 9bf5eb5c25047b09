"""Other people's engines, with our decoding in them."""
