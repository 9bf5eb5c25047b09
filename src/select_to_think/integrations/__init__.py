"""Other people's engines and clusters."""
