"""What to do with a pair: measured on the user's own questions, tried out by small trainings, said plainly."""
