"""How the images of a training batch are changed, as functions of drawn numbers."""
