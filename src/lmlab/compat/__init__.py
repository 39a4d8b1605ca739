"""Other libraries' interfaces over our models."""
