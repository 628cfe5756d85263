"""The update of a step, by an optimizer of torch or of the user's own."""
