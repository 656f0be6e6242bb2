"""What several test folders share: small models with random weights, and rows of drawn pictures with questions."""
