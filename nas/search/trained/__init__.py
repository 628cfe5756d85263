"""Networks that are trained alone, and what is made of their trainings."""
