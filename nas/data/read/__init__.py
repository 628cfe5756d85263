"""From a data set's name to its images: files, archives, arrays, torchvision's CIFAR, and what needs no file."""
