"""One module per kind of problem; each offers `draw(rng)` and draws the same puzzles from the same generator state."""
