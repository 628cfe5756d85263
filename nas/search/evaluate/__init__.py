"""What a supernet says of its subnetworks."""
