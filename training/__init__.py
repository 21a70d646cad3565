"""Scripts that train the embedded models; the product does not import them."""
